"""The policy type `lift_vla`: this project's network, driven by the actor that `5_evaluate.py` uses."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor, nn

from lerobot_policy_lift_vla.configuration_lift_vla import NOT_TRAINED_HERE, LiftVlaConfig
from vla.demos.lerobot_layout import IMAGE_KEY, STATE_KEY, TASK_KEY, eef_pos_of, gripper_qpos_of
from vla.policies.acting_network import arrange_for_acting
from vla.policies.actor import PolicyActor
from vla.policies.network import PolicyNetwork, TrainableNetwork, model_architecture
from vla.policies.preprocess import proprioception
from vla.policies.text_encoder import InstructionEmbeddings


class LiftVlaPolicy(PreTrainedPolicy):
    """Turns a camera's picture and an instruction into action chunks; executes the first action of each.

    A batch of B environments has B actors that share the network. Each picture is computed alone, so an action does
    not depend on how many environments run beside it.
    """

    config_class = LiftVlaConfig
    name = "lift_vla"

    def __init__(self, config: LiftVlaConfig, **_: object) -> None:
        """Build the network with random weights; LeRobot passes statistics of a dataset, which are not used."""
        super().__init__(config)
        architecture = model_architecture()
        network = architecture.VLA(architecture.ModelConfig.from_dict(config.network))
        self.network = network
        shape = (len(config.instructions), network.config.text_dim)
        self.register_buffer("instruction_embeddings", torch.zeros(shape))
        self._actors: list[PolicyActor] = []
        self._acting: tuple[PolicyNetwork, ...] = ()  # within a tuple, or it would be saved as a part of this module

    @classmethod
    def _load_as_safetensor(
        cls, model: LiftVlaPolicy, model_file: str, map_location: str, strict: bool
    ) -> LiftVlaPolicy:
        """Load the weights, strictly: LeRobot's default leaves a weight random that the file does not hold."""
        loaded: LiftVlaPolicy = super()._load_as_safetensor(model, model_file, map_location, strict=True)
        loaded._acting = ()
        return loaded

    def reset(self) -> None:
        """Begin an episode in every environment, and forget the pictures seen so far."""
        self._actors = []

    def select_action(self, batch: dict[str, Any], **_: object) -> Tensor:
        """Choose the next action of each environment, (B, 7) in [-1, 1]."""
        return self.predict_action_chunk(batch)[:, 0]

    def predict_action_chunk(self, batch: dict[str, Any], **_: object) -> Tensor:
        """Predict the next K actions of each environment from the observation after the last one.

        Args:
            batch: "observation.images.agentview" (B, 3, H, H) float32 in [0, 1], and "task", B instructions; for a
                policy with proprioception also "observation.state" (B, 9).

        Returns:
            (B, K, 7) in [-1, 1]: position delta (1.0 = 5 cm), rotation delta (1.0 = 0.5 rad), gripper (+1 closes).
        """
        images = (batch[IMAGE_KEY] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)  # (B, H, H, 3), exact
        if len(self._actors) != len(images):
            self._actors = self._begin(batch[TASK_KEY])
        states = [None] * len(images)
        if self.network.config.proprioception:
            states = list(batch[STATE_KEY].cpu().numpy().astype(np.float64))
        chunks = []
        for actor, image, state in zip(self._actors, images.cpu().contiguous().numpy(), states, strict=True):
            own = None if state is None else proprioception(eef_pos_of(state), gripper_qpos_of(state))
            actor.select_action_from_image(image, own)
            chunks.append(actor.action_chunk)
        return torch.from_numpy(np.stack(chunks)).to(images.device)

    def _begin(self, instructions: Sequence[str]) -> list[PolicyActor]:
        """One actor for each environment, which follows its instruction."""
        if not all(instructions):
            raise ValueError('lift_vla needs an instruction for each environment as "task", such as "Pick up the cube"')
        device = self.instruction_embeddings.device
        known = dict(zip(self.config.instructions, self.instruction_embeddings.cpu(), strict=True))
        embeddings = InstructionEmbeddings(known, self.config.text_identity, self.config.clip_weights)
        if not self._acting:
            network: TrainableNetwork = copy.deepcopy(self.network)
            network.eval()
            self._acting = (arrange_for_acting(network, device),)
        actors = []
        for instruction in instructions:
            actor = PolicyActor(self._acting[0], embeddings, device)
            actor.reset(instruction, seed=0)
            actors.append(actor)
        return actors

    def get_optim_params(self) -> list[nn.Parameter]:
        """The trainable tensors."""
        return list(self.parameters())

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        """Refuse to train: the loss and the recipe are those of `4_train.py`."""
        raise NotImplementedError(NOT_TRAINED_HERE)
