"""A policy in the page's memory, and the text encoders that the loaded policies share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.files import FileVersion, file_version
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_policy, load_checkpoint, provenance
from vla.policies.devices import choose_device
from vla.policies.listener import Heard, Listener
from vla.policies.network import PolicyNetwork
from vla.policies.occlusion import occlusion_maps
from vla.policies.preprocess import prepare, proprioception
from vla.policies.text_encoder import InstructionEmbeddings, TextEncoder, matching_text_encoder
from vla.policies.weights import Identity
from vla.sim.config import EnvConfig, warn_of_version_drift

START_GRIPPER_QPOS = np.array([0.020833, -0.020833])
"""Finger joint positions when an episode begins, metres (robosuite's Panda gripper)."""


class TextEncoders:
    """Text encoders by the hash of their weights; policies trained with the same encoder share one."""

    def __init__(self, clip_weights: str) -> None:
        self._clip_weights = clip_weights
        self._lock = threading.Lock()
        self._by_weights: dict[tuple[str, bool], TextEncoder] = {}

    def matching(self, identity: Identity) -> TextEncoder:
        """Return the encoder of that identity; it is loaded when it is first asked for.

        Raises:
            UserError: `clip_weights` are another encoder's (see `matching_text_encoder`).
        """
        key = identity["sha256"], identity.get("quick_gelu", True)
        with self._lock:
            if key not in self._by_weights:
                self._by_weights[key] = matching_text_encoder(identity, self._clip_weights)
            return self._by_weights[key]


class RecentEmbeddings(InstructionEmbeddings):
    """The embeddings of a checkpoint, and of the latest other instructions: visitors may invent any number."""

    KEPT = 256
    """Largest number of instructions that are kept besides those of the checkpoint."""

    def __init__(self, checkpoint: Mapping[str, Any], encoders: TextEncoders) -> None:
        language = checkpoint["language"]
        self._trained = dict(zip(language["texts"], language["embeddings"], strict=True))
        self._encoders = encoders
        self._lock = threading.Lock()
        super().__init__(self._trained, checkpoint["text_identity"], source="")

    def __getitem__(self, instruction: str) -> torch.Tensor:
        """(dim,) raw embedding of one instruction."""
        with self._lock:
            embedding = super().__getitem__(instruction)
            if len(self._known) > len(self._trained) + self.KEPT:
                oldest = next(text for text in self._known if text not in self._trained)
                del self._known[oldest]
        return embedding

    def _load_encoder(self) -> TextEncoder:
        return self._encoders.matching(self._identity)


@dataclass(frozen=True, eq=False)
class LoadedPolicy:
    """A trained network that is ready to act."""

    path: Path
    network: PolicyNetwork
    embeddings: InstructionEmbeddings
    device: torch.device
    facts: Mapping[str, Any]
    """The checkpoint without its weights."""
    version: FileVersion = (0, 0)
    """Version of the file that was read; a file of the same name may hold another policy later."""

    @classmethod
    def load(cls, path: Path, encoders: TextEncoders) -> LoadedPolicy:
        """Load the policy of a checkpoint, onto the GPU if there is one.

        Raises:
            UserError: the checkpoint cannot be used.
        """
        version = file_version(path)
        checkpoint = load_checkpoint(path)
        warn_of_version_drift(checkpoint["env_args"], str(path))
        print(f"policy: {path}, {provenance(checkpoint)}")
        device = choose_device()
        facts = {name: value for name, value in checkpoint.items() if name not in ("model", "optimizer")}
        network = build_policy(checkpoint, path, device)
        return cls(path, network, RecentEmbeddings(checkpoint, encoders), device, facts, version)

    @property
    def env(self) -> EnvConfig:
        """The simulator that the policy was trained in."""
        return EnvConfig.from_env_args(self.facts["env_args"])

    def embedding(self, instruction: str) -> np.ndarray:
        """(dim,) raw embedding of an instruction.

        Raises:
            UserError: the instruction is new, and its text encoder cannot be had here.
        """
        embedding: np.ndarray = self.embeddings[instruction].detach().cpu().numpy()
        return embedding

    def heard(self, instruction: str) -> Heard:
        """Return the wording of the training that is nearest to an instruction.

        Raises:
            UserError: as `embedding`.
        """
        return self._listener.hear(self.embedding(instruction))

    @functools.cached_property
    def _listener(self) -> Listener:
        language = self.facts["language"]
        return Listener(language["texts"], language["embeddings"].numpy())

    def own_state(self, eef_pos: np.ndarray) -> np.ndarray | None:
        """Return the arm's own state, (4,) decimetres, for a network that asks for it; None for others.

        Args:
            eef_pos: (3,) grip site, metres. The fingers are open as far as at the start of an episode.
        """
        return proprioception(eef_pos, START_GRIPPER_QPOS) if self.network.config.proprioception else None

    def action_chunk(self, image: np.ndarray, instruction: str, eef_pos: np.ndarray) -> np.ndarray:
        """Predict (K, 7) actions in [-1, 1] from one (224, 224, 3) uint8 image, which fills the observation buffer.

        `eef_pos`, (3,) metres, is read only by a policy with proprioception.
        """
        actor = PolicyActor(self.network, self.embeddings, self.device)
        actor.reset(instruction, seed=0)
        actor.select_action_from_image(image, self.own_state(eef_pos))
        return actor.action_chunk

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Encode (n, 224, 224, 3) uint8 images; returns (n, 512)."""
        prepared = prepare(torch.from_numpy(images).to(self.device), self.network.config.image)
        return np.concatenate([self.network.encode(part).float().cpu().numpy() for part in prepared.split(16)])

    def where_it_looks(self, image: np.ndarray, instructions: Sequence[str], eef_pos: np.ndarray) -> np.ndarray:
        """Return how much the first action changes when a spot is hidden (`vla.policies.occlusion`).

        One map for each of the n instructions, (n, 224, 224) in [0, 1]; 1 is the strongest spot of all of them.
        """
        embeddings = torch.stack([self.embeddings[instruction] for instruction in instructions]).to(self.device)
        maps = occlusion_maps(self.network, image, embeddings, self.own_state(eef_pos))
        scaled: np.ndarray = maps / max(float(maps.max()), 1e-9)
        return scaled
