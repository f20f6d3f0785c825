"""Judges an evaluation's recorded episodes again: the second judge on the states, and the simulator's own replay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla.demos.hdf5_checks import attribute_text, read
from vla.errors import UserError
from vla.evaluation.recordings import open_episodes, recorded_target
from vla.sim.config import EnvConfig, version_drift
from vla.sim.env import Simulator
from vla.sim.second_look import SecondLook, second_look


@dataclass(frozen=True)
class Rejudged:
    """The opinions of both judges on one episode."""

    name: str
    seed: int
    verdict: bool
    """Success by the verdict that the episode was recorded with."""
    words: str
    """The recorded verdict in words."""
    second: SecondLook

    @property
    def agree(self) -> bool:
        """Both judges decide the same, and the recording of a valid episode follows from its actions."""
        return self.second.agrees(self.verdict, is_valid=not self.words.startswith("INVALID"))


def rejudge_file(path: Path) -> list[Rejudged]:
    """Judge every episode of a file again.

    Raises:
        UserError: the file is damaged, or was recorded with other versions of the simulator.
    """
    with open_episodes(path) as file:
        env_args = attribute_text(file.attrs["env_args"])
        drift = version_drift(env_args)
        if drift:
            raise UserError(
                f"{path} was recorded with other versions ({drift}): its states mean nothing here; evaluate again"
            )
        sim = Simulator(EnvConfig.from_env_args(env_args), render_images=False)
        rejudged = []
        for name in sorted(file, key=lambda name: int(name.removeprefix("episode_"))):
            group = file[name]
            seed, verdict = int(group.attrs["seed"]), bool(group.attrs["success"])
            sim.target = recorded_target(group)
            actions = read(group, "actions", finite=False)  # a policy's may be NaN, which the judge has to say
            second = second_look(sim, seed, read(group, "states"), actions)
            rejudged.append(Rejudged(name, seed, verdict, attribute_text(group.attrs["verdict"]), second))
        return rejudged


def print_second_opinions(path: Path) -> bool:
    """Judge every episode of a file again, and print where the judges disagree or the recording is in doubt.

    Returns:
        Whether the judges agree on every episode.
    """
    rejudged = rejudge_file(path)
    for episode in rejudged:
        if not episode.agree:
            second = "a success" if episode.second.success else "no success"
            doubt = f" ({episode.second.doubt})" if episode.second.doubt else ""
            print(
                f"{episode.name}, seed {episode.seed}: the second judge says {second}{doubt}; "
                f"the verdict: {episode.words}"
            )
    agreed = sum(episode.agree for episode in rejudged)
    lifted = sum(episode.verdict for episode in rejudged)
    print(f"{path}: the judges agree on {agreed} of {len(rejudged)} episodes ({lifted} successes by the verdict)")
    return agreed == len(rejudged)
