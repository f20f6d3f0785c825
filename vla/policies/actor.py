"""A policy network as an actor: buffer of image features, action chunks, and which of their actions is executed."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from vla.policies.execution import ControlConfig
from vla.policies.network import PolicyNetwork
from vla.policies.preprocess import prepare, proprioception
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.env import Observation
from vla.sim.rollout import Decision


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
        """Drive with `model` on `device`; `blind` replaces every image by a black one, as a control experiment."""
        self._model = model
        self._embeddings = embeddings
        self._device = device
        self._control = control or ControlConfig()
        self._control.check(model.config.chunk_size)
        self._blind = blind
        self.action_chunk = np.zeros((model.config.chunk_size, 7), dtype=np.float32)
        """The latest prediction, (K, 7) in [-1, 1]."""
        self._language: Tensor | None = None
        self._features: deque[Tensor] = deque(maxlen=model.config.observation_horizon)
        self._chunks: deque[np.ndarray] = deque(maxlen=model.config.chunk_size)
        self._step = 0

    def reset(self, instruction: str, seed: int) -> None:
        """Begin an episode and forget the last one. The policy is deterministic and does not use `seed`."""
        self.set_instruction(self._embeddings[instruction])
        self._features.clear()
        self._chunks.clear()
        self._step = 0

    def set_instruction(self, embedding: Tensor) -> None:
        """Follow the instruction with this (text_dim,) embedding from the next action on; the images seen are kept, as
        they were seen."""
        self._language = embedding.to(self._device)[None]

    def select_action(self, obs: Observation) -> Decision:
        """Choose the next action from the image, and from the arm's own state if the model asks for it."""
        state = None
        if self._model.config.proprioception:
            state = proprioception(obs.eef_pos, obs.gripper_qpos)
        return self.select_action_from_image(obs.image, state)

    def select_action_from_image(self, image: np.ndarray, state: np.ndarray | None = None) -> Decision:
        """Encode the image, predict a chunk if one is due, and choose this step's action.

        Args:
            image: (H, W, 3) uint8.
            state: (4,) proprioception in decimetres, for a model that asks for it.
        """
        if self._blind:
            image = np.zeros_like(image)
        offset = self._step % self._control.execute_steps
        self._encode(image, state)
        if offset == 0:
            self.action_chunk = self._predict()
            self._chunks.appendleft(self.action_chunk)
        action = self.action_chunk[offset] if self._control.ensemble_decay is None else self._ensemble()
        self._step += 1
        return Decision(action=action, label=action, phase="policy", source="policy")

    @torch.inference_mode()
    def _encode(self, image: np.ndarray, state: np.ndarray | None) -> None:
        frame = torch.from_numpy(image)[None].to(self._device)
        own_state = None if state is None else torch.from_numpy(state)[None].to(self._device)
        words = self._language if self._model.config.encodes_language else None
        feature = self._model.encode(prepare(frame, self._model.config.image), own_state, words)[0]  # (512,)
        copies = 1 if self._features else self._model.config.observation_horizon  # the first frame fills the buffer
        self._features.extend([feature] * copies)

    @torch.inference_mode()
    def _predict(self) -> np.ndarray:
        assert self._language is not None, "reset comes before the first action"
        features = torch.stack(tuple(self._features))[None]  # (1, T, 512)
        chunk: np.ndarray = self._model.decode(features, self._language).actions()[0].float().cpu().numpy()
        return chunk

    def _ensemble(self) -> np.ndarray:
        """Weighted mean of the actions that the last K chunks predicted for this step."""
        # The chunk that is `age` steps old predicted this step as its action number `age`.
        votes = np.stack([chunk[age] for age, chunk in enumerate(self._chunks)])
        oldest_first = np.arange(len(votes))[::-1]
        weights = np.exp(-(self._control.ensemble_decay or 0.0) * oldest_first)
        mean: np.ndarray = (weights[:, None] * votes).sum(axis=0) / weights.sum()
        return mean.astype(np.float32)
