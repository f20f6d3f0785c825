"""The policy as a person uses it from Python: a checkpoint in, actions out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.errors import UserError
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import instruction_embeddings, load_policy
from vla.policies.devices import choose_device
from vla.policies.execution import Precision
from vla.policies.network import PolicyNetwork
from vla.policies.preprocess import proprioception
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import warn_of_version_drift


class Policy:
    """A trained policy that turns camera images and an instruction into actions at 20 Hz."""

    def __init__(self, network: PolicyNetwork, embeddings: InstructionEmbeddings, device: torch.device) -> None:
        self.config = network.config
        """Its image crop, observation horizon T, chunk size K, and whether it needs proprioception."""
        self._embeddings = embeddings
        self._actor = PolicyActor(network, embeddings, device)
        self._begun = False

    @classmethod
    def load(
        cls, path: Path, device: str = "auto", clip_weights: str = "openai", precision: Precision = "float32"
    ) -> Policy:
        """Load the policy of a checkpoint; see `vla.load_policy`."""
        chosen = choose_device(device)
        network, checkpoint = load_policy(path, chosen, precision)
        warn_of_version_drift(checkpoint["env_args"], str(path))
        return cls(network, instruction_embeddings(checkpoint, clip_weights), chosen)

    def reset(self, instruction: str) -> None:
        """Begin an episode: forget the images seen so far, and follow `instruction`.

        Raises:
            UserError: the instruction is empty or no text, or it is new and its text encoder cannot be had here.
        """
        if not isinstance(instruction, str) or not instruction.strip():
            raise UserError(f'an instruction is a sentence, such as "Pick up the cube", got {instruction!r}')
        self._actor.reset(instruction, seed=0)
        self._begun = True

    def set_instruction(self, instruction: str) -> None:
        """Follow another instruction from the next action on; the images seen so far are kept."""
        self._actor.set_instruction(self._embeddings[instruction])

    def select_action(
        self, rgb: np.ndarray, eef_pos: np.ndarray | None = None, gripper_qpos: np.ndarray | None = None
    ) -> np.ndarray:
        """Choose the next action.

        Args:
            rgb: (H, H, 3) uint8, upright image of the agent-view camera; the policy was trained at H = 224.
            eef_pos: (3,) grip site, world frame, metres; only for a policy with proprioception.
            gripper_qpos: (2,) finger joint positions, metres; only for a policy with proprioception.

        Returns:
            (7,) float32 in [-1, 1]: position delta (1.0 = 5 cm), rotation delta (1.0 = 0.5 rad, axis-angle) and gripper
            (+1 closes), in robosuite's OSC_POSE convention.

        Raises:
            UserError: no `reset` yet, an image of another kind, or proprioception that is missing.
        """
        if not self._begun:
            raise UserError('the policy has no instruction yet; call policy.reset("Pick up the cube") first')
        if not isinstance(rgb, np.ndarray):
            raise UserError(f"rgb must be a numpy array, (H, H, 3) uint8, got {type(rgb).__name__}")
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.shape[0] != rgb.shape[1]:
            raise UserError(f"rgb must be a square image, (H, H, 3) uint8, got {rgb.shape} {rgb.dtype}")
        state = None
        if self.config.proprioception:
            if eef_pos is None or gripper_qpos is None:
                raise UserError("this policy needs the arm's own state; give eef_pos and gripper_qpos to select_action")
            state = proprioception(np.asarray(eef_pos), np.asarray(gripper_qpos))
        # A copy: torch reads no array that is read-only or runs backwards, as a flipped image does.
        return self._actor.select_action_from_image(rgb.copy(order="C"), state).action

    @property
    def action_chunk(self) -> np.ndarray:
        """(K, 7) actions in [-1, 1] that the latest prediction planned."""
        return self._actor.action_chunk
