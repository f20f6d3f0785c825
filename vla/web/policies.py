"""The checkpoints that a visitor can choose from, by file name: no path comes from a browser."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.errors import UserError
from vla.files import SHIPPED
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_model, load_checkpoint, provenance
from vla.policies.devices import choose_device
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import EnvConfig, warn_of_version_drift


class RecentEmbeddings(InstructionEmbeddings):
    """A checkpoint's embeddings, and of the other wordings only the latest: visitors may invent any number."""

    KEPT = 256

    def __init__(self, checkpoint: Mapping[str, Any], clip_weights: str) -> None:
        language = checkpoint["language"]
        self._trained = dict(zip(language["texts"], language["embeddings"], strict=True))
        super().__init__(self._trained, checkpoint["text_identity"], clip_weights)

    def __getitem__(self, instruction: str) -> torch.Tensor:
        """(512,) raw embedding of one instruction."""
        embedding = super().__getitem__(instruction)
        if len(self._known) > len(self._trained) + self.KEPT:
            oldest = next(text for text in self._known if text not in self._trained)
            del self._known[oldest]
        return embedding


@dataclass(frozen=True)
class Policy:
    """A trained network, ready to act."""

    path: Path
    model: Any
    embeddings: InstructionEmbeddings
    device: torch.device
    facts: dict[str, Any]
    """The checkpoint without its weights."""
    written_ns: int = 0
    """When the file was written: one of the same name may be another policy."""

    @classmethod
    def load(cls, path: Path, clip_weights: str) -> Policy:
        """The policy of a checkpoint, on the GPU where there is one."""
        written_ns = _written_ns(path)
        checkpoint = load_checkpoint(path)
        warn_of_version_drift(checkpoint["env_args"], str(path))
        print(f"policy: {path}, {provenance(checkpoint)}")
        device = choose_device()
        facts = {name: value for name, value in checkpoint.items() if name not in ("model", "optimizer")}
        model = build_model(checkpoint, path).to(device)
        return cls(path, model, RecentEmbeddings(checkpoint, clip_weights), device, facts, written_ns)

    @property
    def env(self) -> EnvConfig:
        """The simulator that it was trained in."""
        return EnvConfig.from_env_args(self.facts["env_args"])

    def chunk(self, picture: np.ndarray, instruction: str) -> np.ndarray:
        """(224, 224, 3) uint8 -> (K, 7) actions in [-1, 1], the picture filling the whole buffer."""
        actor = PolicyActor(self.model, self.embeddings, self.device)
        actor.reset(instruction, seed=0)
        actor.select_action_from_image(picture)
        return actor.action_chunk


class Policies:
    """Checkpoints beside the given one, and the shipped one; each is loaded when it is first asked for."""

    def __init__(self, main: Path, clip_weights: str) -> None:
        self.main = main
        self._clip_weights = clip_weights
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._loaded: dict[str, Policy] = {}
        self.broken: dict[str, str] = {}
        """Why `first` could not use a checkpoint."""

    def names(self) -> list[str]:
        """File names of the checkpoints that are there now, the given one first."""
        return list(self._paths())

    def __getitem__(self, name: str) -> Policy:
        """Raises a UserError for a name that is not among `names`, or a file that is no checkpoint."""
        paths = self._paths()
        if name not in paths:
            raise UserError(f"there is no checkpoint of that name; choose from: {', '.join(paths) or 'none yet'}")
        with self._lock:
            known = self._loaded.get(name)
            if known is None or known.written_ns != _written_ns(known.path):
                self._loaded[name] = Policy.load(paths[name], self._clip_weights)
            return self._loaded[name]

    def first(self) -> Policy | None:
        """The first one that can be used; why others before it cannot stands in `broken`."""
        for name in self.names():
            try:
                return self[name]
            except UserError as error:
                self.broken[name] = str(error)
        return None

    def embedding(self, name: str, instruction: str) -> np.ndarray:
        """(512,) of an instruction for the policy of that name."""
        policy = self[name]
        with self._encoding:  # the text tower is loaded once, for the first unknown wording
            return policy.embeddings[instruction].detach().cpu().numpy()

    def knows(self, name: str, instruction: str) -> bool:
        """Whether the policy of that name has met this wording, and answers at once."""
        return instruction in self[name].embeddings

    def warm_up(self) -> None:
        """Load the text tower, so that the first unknown wording need not wait for it."""
        with contextlib.suppress(UserError):  # told to whoever asks for an unknown wording
            policy = self.first()
            if policy is not None:
                self.embedding(policy.path.name, "A wording that nobody has been trained on")

    def _paths(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for path in (self.main, *sorted(self.main.parent.glob("*.pth")), SHIPPED):
            if path.is_file():
                paths.setdefault(path.name, path)
        return paths


def _written_ns(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
