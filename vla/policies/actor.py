"""A trained model as an actor: observation buffer, feature cache, and what is executed of a chunk."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla.errors import UserError
from vla.policies.network import PolicyNetwork
from vla.policies.preprocess import prepare, proprioception
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.env import Observation
from vla.sim.rollout import Decision


@dataclass(frozen=True)
class ControlConfig:
    """What is done with the predicted chunks."""

    execute_steps: int = 1
    """Actions executed of each chunk before the next prediction (report sec. 5.1.2: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling (ACT, Zhao et al. 2023): each step executes the mean of all chunks that reach it, the
    i-th oldest weighted exp(-decay i); None: off. Needs execute_steps 1."""

    def __post_init__(self) -> None:
        if self.execute_steps < 1:
            raise UserError(f"--execute-steps must be at least 1, got {self.execute_steps}")
        if self.ensemble_decay is not None and (self.execute_steps != 1 or self.ensemble_decay < 0):
            raise UserError("temporal ensembling needs a decay of at least 0 and --execute-steps 1")

    def check(self, chunk_size: int) -> None:
        """Raise a UserError where a policy's chunks are too short for this."""
        if self.execute_steps > chunk_size:
            raise UserError(f"--execute-steps {self.execute_steps} exceeds a chunk's {chunk_size} actions")


class PolicyActor:
    """Drives the arm from images and an instruction alone."""

    def __init__(
        self,
        model: PolicyNetwork,
        embeddings: InstructionEmbeddings,
        device: torch.device,
        control: ControlConfig | None = None,
        blind: bool = False,
    ) -> None:
        """`blind` shows the policy black pictures: what is left of its success, it did not owe to its eyes."""
        self._model = model
        self._embeddings = embeddings
        self._device = device
        self._control = control or ControlConfig()
        self._control.check(model.config.chunk_size)
        self._blind = blind
        self.action_chunk = np.zeros((model.config.chunk_size, 7), dtype=np.float32)
        """The latest prediction, (K, 7) in [-1, 1]."""

    def reset(self, instruction: str, seed: int) -> None:
        """Forget the last episode; `seed` is not used, the policy is deterministic."""
        self.set_instruction(self._embeddings[instruction])
        self._features: deque[Tensor] = deque(maxlen=self._model.config.observation_horizon)
        self._chunks: deque[np.ndarray] = deque(maxlen=self._model.config.chunk_size)
        self._step = 0

    def set_instruction(self, embedding: Tensor) -> None:
        """Follow another instruction from the next action on, (512,); what was seen is kept."""
        self._language = embedding.to(self._device)[None]

    def select_action(self, obs: Observation) -> Decision:
        """The next action; of the observation only the image is used, unless the model asks for proprioception."""
        state = None
        if self._model.config.proprioception:
            state = proprioception(obs.eef_pos, obs.gripper_qpos)
        return self.select_action_from_image(obs.image, state)

    def select_action_from_image(self, image: np.ndarray, state: np.ndarray | None = None) -> Decision:
        """Encode (H, W, 3) uint8, predict where a prediction is due, and choose this step's action.

        `state` is the (4,) proprioception, for a model that asks for it.
        """
        if self._blind:
            image = np.zeros_like(image)
        offset = self._step % self._control.execute_steps
        self._see(image, state)
        if offset == 0:
            self.action_chunk = self._predict()
            self._chunks.appendleft(self.action_chunk)
        action = self.action_chunk[offset] if self._control.ensemble_decay is None else self._ensemble()
        self._step += 1
        return Decision(action=action, label=action, phase="policy", source="policy")

    @torch.inference_mode()
    def _see(self, image: np.ndarray, state: np.ndarray | None) -> None:
        frame = torch.from_numpy(image)[None].to(self._device)
        own = None if state is None else torch.from_numpy(state)[None].to(self._device)
        feature = self._model.encode(prepare(frame, self._model.config.image), own)[0]  # (512,)
        missing = self._features.maxlen if not self._features else 1
        self._features.extend([feature] * (missing or 1))  # the first frame fills the whole buffer

    @torch.inference_mode()
    def _predict(self) -> np.ndarray:
        features = torch.stack(tuple(self._features))[None]  # (1, T, 512)
        chunk: np.ndarray = self._model.decode(features, self._language).actions()[0].float().cpu().numpy()
        return chunk

    def _ensemble(self) -> np.ndarray:
        # Chunk `age` steps old speaks of this step with its action number `age`.
        votes = np.stack([chunk[age] for age, chunk in enumerate(self._chunks)])
        oldest_first = np.arange(len(votes))[::-1]
        weights = np.exp(-(self._control.ensemble_decay or 0.0) * oldest_first)
        mean: np.ndarray = (weights[:, None] * votes).sum(axis=0) / weights.sum()
        return mean.astype(np.float32)
