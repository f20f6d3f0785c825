"""The checkpoints that a visitor can choose from by file name; the page takes no path from a browser."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path

from vla.errors import UserError
from vla.experts.controls import CONTROLS
from vla.files import SHIPPED, file_version
from vla.web.loaded_policy import LoadedPolicy, TextEncoders

EXPERT = "expert"
"""The control that drives where there is no checkpoint."""


class CheckpointChoices:
    """The checkpoints beside the given one, and the shipped one. Each is loaded when it is first asked for."""

    KEPT = 3
    """Networks that stay in memory; the least recently used one goes first."""

    def __init__(self, main: Path, clip_weights: str) -> None:
        self.main = main
        self._encoders = TextEncoders(clip_weights)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, LoadedPolicy] = OrderedDict()
        self.broken: dict[str, str] = {}
        """Why `first` could not use a checkpoint, by file name."""

    def names(self) -> list[str]:
        """File names of the checkpoints that exist now, the given one first."""
        return list(self._paths())

    def drivers(self) -> list[str]:
        """Everything that can drive the arm: checkpoints by file name, then the expert, then the other controls."""
        return [*self.names(), EXPERT, *(name for name in CONTROLS if name != EXPERT)]

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

    def first(self) -> LoadedPolicy | None:
        """Return the first policy that can be used; the reasons against those before it are kept in `broken`."""
        for name in self.names():
            try:
                return self[name]
            except UserError as error:
                self.broken[name] = str(error)
        return None

    def load_text_encoder(self) -> None:
        """Load the first policy's text encoder, so that the first unknown instruction need not wait for it."""
        with contextlib.suppress(UserError):  # the visitor who needs the encoder reads the error
            policy = self.first()
            if policy is not None:
                _ = policy.embeddings["An instruction that is in no training set"]

    def _paths(self) -> dict[str, Path]:
        # `vla.files.atomic_path` gives its temporary files names that begin with a dot.
        beside = [path for path in sorted(self.main.parent.glob("*.pth")) if not path.name.startswith(".")]
        paths: dict[str, Path] = {}
        for path in (self.main, *beside, SHIPPED):
            if path.is_file():
                paths.setdefault(path.name, path)
        return paths
