"""The checkpoints that a visitor can choose from, by file name: no path comes from a browser."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.checkpoint import build_model, instruction_embeddings, load_checkpoint, provenance, warn_of_drift
from vla.env import EnvConfig
from vla.errors import UserError
from vla.files import SHIPPED
from vla.policy import PolicyActor
from vla.text import InstructionEmbeddings


@dataclass(frozen=True)
class Policy:
    """A trained network, ready to act."""

    path: Path
    model: Any
    embeddings: InstructionEmbeddings
    device: torch.device
    facts: dict[str, Any]
    """The checkpoint without its weights."""

    @classmethod
    def load(cls, path: Path, clip_weights: str) -> Policy:
        """The policy of a checkpoint, on the GPU where there is one."""
        checkpoint = load_checkpoint(path)
        warn_of_drift(checkpoint, path)
        print(f"policy: {path}, {provenance(checkpoint)}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        facts = {name: value for name, value in checkpoint.items() if name not in ("model", "optimizer")}
        model = build_model(checkpoint, path).to(device)
        return cls(path, model, instruction_embeddings(checkpoint, clip_weights), device, facts)

    @property
    def env(self) -> EnvConfig:
        """The simulator that it was trained in."""
        return EnvConfig.from_env_args(self.facts["env_args"])

    def chunk(self, picture: np.ndarray, instruction: str) -> np.ndarray:
        """(224, 224, 3) uint8 -> (K, 7) actions in [-1, 1], the picture filling the whole buffer."""
        actor = PolicyActor(self.model, self.embeddings, self.device)
        actor.reset(instruction, seed=0)
        actor.act_on_image(picture)
        return actor.chunk


class Policies:
    """Checkpoints beside the given one, and the shipped one; each is loaded when it is first asked for."""

    def __init__(self, main: Path, clip_weights: str) -> None:
        self.main = main
        self._clip_weights = clip_weights
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self._loaded: dict[str, Policy] = {}

    def names(self) -> list[str]:
        """File names of the checkpoints that are there now, the given one first."""
        return list(self._paths())

    def __getitem__(self, name: str) -> Policy:
        """Raises a UserError for a name that is not among `names`, or a file that is no checkpoint."""
        paths = self._paths()
        if name not in paths:
            raise UserError(f"there is no checkpoint of that name; choose from: {', '.join(paths) or 'none yet'}")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = Policy.load(paths[name], self._clip_weights)
            return self._loaded[name]

    def embedding(self, name: str, instruction: str) -> np.ndarray:
        """(512,) of an instruction for the policy of that name."""
        policy = self[name]
        if instruction in policy.embeddings:
            return policy.embeddings[instruction].detach().cpu().numpy()
        with self._encoding:  # the text tower is loaded once, for the first unknown wording
            return policy.embeddings[instruction].detach().cpu().numpy()

    def _paths(self) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for path in (self.main, *sorted(self.main.parent.glob("*.pth")), SHIPPED):
            if path.is_file():
                paths.setdefault(path.name, path)
        return paths
