"""Who can drive the arm, and in which scene: the checkpoints, by file name, and the controls.

A visitor chooses among them; the page takes no path from a browser. A checkpoint's scene is the one that it was trained
in. The controls act in both scenes; in the scene "cubes", their names begin with CUBES_PREFIX.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from vla.errors import UserError
from vla.experts.controls import CONTROLS
from vla.files import SHIPPED, SHIPPED_LANGUAGE, FileVersion, file_version
from vla.policies.checkpoint_archive import trained_in
from vla.sim.config import EnvConfig, SceneKind

if TYPE_CHECKING:  # see vla.web.known_views
    from vla.web.loaded_policy import LoadedPolicy, TextEncoders

EXPERT = "expert"
"""The control that drives where there is no checkpoint."""
CUBES_PREFIX = "cubes:"


def control_of(driver: str) -> str | None:
    """Return the control that a driver is (`vla.experts.controls`); None for a checkpoint."""
    name = driver.removeprefix(CUBES_PREFIX)
    return name if name in CONTROLS else None


class CheckpointChoices:
    """The checkpoints beside the given one, and the shipped ones. Each is loaded when it is first asked for."""

    KEPT = 3
    """Networks that stay in memory; the least recently used one goes first."""

    def __init__(self, main: Path, clip_weights: str) -> None:
        self.main = main
        self._clip_weights = clip_weights
        self._encoders: TextEncoders | None = None
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, LoadedPolicy] = OrderedDict()
        self._envs: dict[Path, tuple[FileVersion, EnvConfig | str]] = {}
        self._unusable: dict[Path, tuple[FileVersion, str]] = {}

    def names(self) -> list[str]:
        """File names of the checkpoints that exist now, the given one first."""
        return list(self._paths())

    def drivers(self) -> list[str]:
        """Everything that can drive the arm: checkpoints by file name, then the expert, then the other controls."""
        controls = [EXPERT, *(name for name in CONTROLS if name != EXPERT)]
        in_cubes = [CUBES_PREFIX + name for name in controls] if self._first_of("cubes") is not None else []
        return [*self.names(), *controls, *in_cubes]

    def scenes(self) -> dict[SceneKind, list[str]]:
        """Return the scenes that can be shown, with their drivers; "cubes" is one where it has a checkpoint."""
        scenes: dict[SceneKind, list[str]] = {"lift": []}
        for driver in self.drivers():
            scenes.setdefault(self.env(driver).scene.kind, []).append(driver)
        return scenes

    def env(self, driver: str) -> EnvConfig:
        """Return the simulator that one of `drivers` acts in; the default one for a checkpoint that cannot be used."""
        path = self._paths().get(driver)
        if path is not None:
            return self._env_of(path)
        return self._first_of("cubes" if driver.startswith(CUBES_PREFIX) else "lift") or EnvConfig()

    def __getitem__(self, name: str) -> LoadedPolicy:
        """Return the policy of that file name; it is loaded again if the file was written anew.

        Raises:
            UserError: the name is not among `names`, or the file cannot be used.
        """
        paths = self._paths()
        if not paths:
            raise UserError(self.missing())
        if name not in paths:
            raise UserError(f"there is no checkpoint of that name; choose from: {', '.join(paths)}")
        with self._lock:
            from vla.web.loaded_policy import LoadedPolicy, TextEncoders

            self._encoders = self._encoders or TextEncoders(self._clip_weights)
            policy = self._loaded.get(name)
            if policy is None or (policy.path, policy.version) != (paths[name], file_version(paths[name])):
                policy = self._loaded[name] = LoadedPolicy.load(paths[name], self._encoders)
            self._loaded.move_to_end(name)
            while len(self._loaded) > self.KEPT:
                self._loaded.popitem(last=False)
            return policy

    def missing(self) -> str:
        """What to do where there is no checkpoint at all."""
        return f"no checkpoint at {self.main}; train one with: make train, then start the page again"

    def broken(self) -> dict[str, str]:
        """Return why checkpoints cannot be used, as far as this is known by now, by file name."""
        reasons = {name: self._why_broken(path) for name, path in self._paths().items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def first_name(self) -> str | None:
        """Return the name of the first checkpoint that is not known to be broken; None: there is none.

        No weights are loaded for this. A checkpoint that says in which simulator it was trained counts as whole until
        `first` has loaded it.
        """
        return next((name for name, path in self._paths().items() if self._why_broken(path) is None), None)

    def first_driver(self) -> str:
        """Return the driver that the page offers first: `first_name`, or else the expert."""
        return self.first_name() or EXPERT

    def first(self) -> LoadedPolicy | None:
        """Return the first policy that can be used; None: there is none. Those before it are `broken` from then on."""
        for name, path in self._paths().items():
            version = file_version(path)
            try:
                return self[name]
            except UserError as error:
                self._unusable[path] = version, str(error)
        return None

    def load_text_encoder(self) -> None:
        """Load the first policy's text encoder, so that the first unknown instruction need not wait for it."""
        with contextlib.suppress(UserError):  # the visitor who needs the encoder reads the error
            policy = self.first()
            if policy is not None:
                _ = policy.embeddings["An instruction that is in no training set"]

    def _first_of(self, kind: SceneKind) -> EnvConfig | None:
        """Return the simulator of the first checkpoint of a scene; None: there is none."""
        envs = (self._env_of(path) for path in self._paths().values())
        return next((env for env in envs if env.scene.kind == kind), None)

    def _env_of(self, path: Path) -> EnvConfig:
        """Return the simulator of a checkpoint. The visitor who chooses one without any reads the error."""
        env = self._trained_in(path)
        return EnvConfig() if isinstance(env, str) else env

    def _why_broken(self, path: Path) -> str | None:
        env, known = self._trained_in(path), self._unusable.get(path)
        if isinstance(env, str):
            return env
        return known[1] if known is not None and known[0] == file_version(path) else None

    def _trained_in(self, path: Path) -> EnvConfig | str:
        """Return the simulator of a checkpoint, or why it has none; the file is read once for this."""
        version = file_version(path)
        known = self._envs.get(path)
        if known is None or known[0] != version:
            try:
                known = version, trained_in(path)
            except UserError as error:
                known = version, str(error)
            self._envs[path] = known
        return known[1]

    def _paths(self) -> dict[str, Path]:
        # `vla.files.atomic_path` gives its temporary files names that begin with a dot.
        beside = [path for path in sorted(self.main.parent.glob("*.pth")) if not path.name.startswith(".")]
        paths: dict[str, Path] = {}
        for path in (self.main, *beside, SHIPPED, SHIPPED_LANGUAGE):
            if path.is_file():
                paths.setdefault(path.name, path)
        return paths
