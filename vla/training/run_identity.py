"""The identity of a training run: whether a stored run is the one that is asked for.

`--resume` continues a run only with the recipe, network, options and demonstrations that it began with. The error names
whatever differs. There are two exceptions. `--init` need not be repeated once an epoch has finished. And a finished run
whose policy is exported (`--resume --export FILE`) needs no demonstrations any more, so their file may have grown
since: `1_collect_demos.py --dagger` adds demonstrations behind the old ones, which must still be there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.demos.schema import open_demos
from vla.demos.stills import stills_sha256
from vla.errors import UserError
from vla.files import sha256
from vla.policies.devices import choose_device, uses_bfloat16
from vla.policies.network import NetworkConfig
from vla.training.demonstrations import Demonstrations, content_hash
from vla.training.options import TrainOptions
from vla.training.recipes import Recipe

MAX_NAMED = 4
"""Differences that the error names; it counts the rest."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything that decides the weights of a run, as plain types for the checkpoint."""

    recipe: dict[str, Any]
    """Fields of the `Recipe`, with the changes of the command line."""
    model: dict[str, object]
    """Fields of the network's configuration."""
    language: dict[str, Any]
    """Fields of the `LanguageSettings`, with the changes of the command line."""
    episodes: dict[str, list[str]]
    """Names of the demonstrations for 'train' and 'valid'."""
    data_sha256: str
    """Hash of the file of demonstrations."""
    demos_sha256: str | None
    """Hash of the run's own demonstrations (`vla.training.demonstrations.content_hash`)."""
    stills_sha256: str | None
    """Hash of the file of stills."""
    num_demos: int | None
    max_steps: int | None
    bfloat16: bool
    init_sha256: str | None
    """Hash of the checkpoint of --init."""
    seed: int
    restarts: int
    rollout_episodes: int
    rollout_steps: int
    clip_weights: str

    @classmethod
    def of(
        cls, options: TrainOptions, recipe: Recipe, config: NetworkConfig, demonstrations: Demonstrations
    ) -> RunIdentity:
        """Identity of the run that a command line asks for."""
        return cls(
            recipe=dataclasses.asdict(recipe),
            model=config.to_dict(),
            language=dataclasses.asdict(options.language()),
            episodes=demonstrations.names,
            data_sha256=demonstrations.file_sha256,
            demos_sha256=demonstrations.content_sha256,
            stills_sha256=None if options.stills is None else stills_sha256(options.stills),
            num_demos=options.num_demos,
            max_steps=options.max_steps,
            bfloat16=uses_bfloat16(options.precision, choose_device(options.device)),
            init_sha256=None if options.init is None else sha256(options.init),
            seed=options.seed,
            restarts=options.restarts,
            rollout_episodes=options.rollout_episodes,
            rollout_steps=options.rollout_steps,
            clip_weights=options.clip_weights,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for the checkpoint."""
        return dataclasses.asdict(self)

    def check_same(self, first: RunIdentity) -> None:
        """Check that this process trains the same as the first of those that train together.

        Raises:
            UserError: its machine has other data or another kind of processor.
        """
        other = first.to_dict()
        names = [name for name, value in self.to_dict().items() if value != other[name]]
        if names:
            raise UserError(
                f"the processes differ in {', '.join(names)}; give every machine the same options, the same file of "
                "demonstrations, and --precision float32 if only some of them compute in bfloat16"
            )

    def continuing(
        self, training: Mapping[str, Any], last: Path, demonstrations: Demonstrations, exports: bool
    ) -> RunIdentity:
        """Compare with the run of a checkpoint (its `training` dict) and return the identity to go on with.

        Args:
            training: what the checkpoint `last` says of its run.
            last: the run's last.pth, for the error.
            demonstrations: those that the command line chooses now.
            exports: whether --export was given.

        Raises:
            UserError: the stored run is another one.
        """
        stored: dict[str, Any] = training["identity"]
        now = self
        if self.init_sha256 is None:
            now = dataclasses.replace(now, init_sha256=stored.get("init_sha256"))
        is_finished = training["epoch"] == stored["recipe"]["epochs"]
        if is_finished and exports and _only_grew(stored, demonstrations):
            now = dataclasses.replace(
                now,
                episodes=stored["episodes"],
                data_sha256=stored["data_sha256"],
                demos_sha256=stored["demos_sha256"],
            )
        found = _differences(stored, now.to_dict())
        if found:
            more = f"; and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
            raise UserError(
                f"--resume: {last} is {'a finished' if is_finished else 'an unfinished'} run with other settings "
                f"({'; '.join(found[:MAX_NAMED])}{more}); repeat those, or start anew with another --output-dir "
                "(or give up the run with --overwrite)"
            )
        return now


def _only_grew(stored: Mapping[str, Any], demonstrations: Demonstrations) -> bool:
    """Whether the stored run's demonstrations are still the first ones of their splits, with the same content."""
    episodes = stored["episodes"]
    if any(names[: len(episodes[split])] != episodes[split] for split, names in demonstrations.names.items()):
        return False
    with open_demos(demonstrations.path, imported=True) as file:
        return content_hash(file, episodes) == stored.get("demos_sha256")


def _differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    before, after = dict(_settings(stored)), dict(_settings(now))
    found = [
        _describe(name, before[name], value)
        for name, value in after.items()
        if name in before and before[name] != value
    ]
    unrecorded = [name for name in after if name not in before]
    if unrecorded:
        found.append(f"an older version did not record {', '.join(unrecorded)}")
    return found


def _settings(identity: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The single settings of an identity; those of a recipe or a model by their own names, others nested by a dot."""
    for name, value in identity.items():
        if name in ("recipe", "model"):
            yield from _settings(value)
        elif isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        elif name != "demos_sha256":  # follows from the file and the names
            yield prefix + name, value


def _describe(name: str, then: Any, now: Any) -> str:
    """One difference in a few words."""
    if name == "data_sha256":
        return "another file of demonstrations"
    if name == "stills_sha256":
        return "other stills"
    if name == "init_sha256":
        return "--init is another checkpoint"
    if name == "bfloat16":
        return f"--precision {'bfloat16' if then else 'float32'} then, {'bfloat16' if now else 'float32'} now"
    if name.startswith("episodes."):
        split = name.removeprefix("episodes.")
        counts = f"{len(then)} then, {len(now)} now" if len(then) != len(now) else f"{len(now)} others"
        return f"{split} demonstrations: {counts}"
    then, now = ("not given" if value is None else value for value in (then, now))
    return f"{name} {then} then, {now} now"
