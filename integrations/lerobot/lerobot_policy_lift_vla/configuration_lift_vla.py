"""Configuration of the policy type `lift_vla`: what `config.json` holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from lerobot.configs.policies import PreTrainedConfig

from vla.demos.lerobot_layout import IMAGE_KEY

NOT_TRAINED_HERE = "lift_vla is not trained by LeRobot; train with 4_train.py, then convert the checkpoint"


@PreTrainedConfig.register_subclass("lift_vla")
@dataclass
class LiftVlaConfig(PreTrainedConfig):
    """A checkpoint of this project without its weights."""

    network: dict[str, Any] = field(default_factory=dict)
    """Configuration of the network (`3_model_architecture.ModelConfig`)."""
    instructions: list[str] = field(default_factory=list)
    """Instructions whose embeddings lie beside the weights; others need the text encoder."""
    text_identity: dict[str, Any] = field(default_factory=dict)
    """Text encoder that the policy was trained with."""
    clip_weights: str = "openai"
    """Text tower for other instructions: an open_clip tag or a local file."""

    @property
    def observation_delta_indices(self) -> list[int]:
        """The T frames that the policy sees, the present one last."""
        return list(range(1 - self.network["observation_horizon"], 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """The K actions that the policy predicts."""
        return list(range(self.network["chunk_size"]))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are used."""

    def get_optimizer_preset(self) -> NoReturn:
        """Refuse: the recipe is in `4_train.py`."""
        raise NotImplementedError(NOT_TRAINED_HERE)

    def get_scheduler_preset(self) -> NoReturn:
        """Refuse: the recipe is in `4_train.py`."""
        raise NotImplementedError(NOT_TRAINED_HERE)

    def validate_features(self) -> None:
        """Check that there is the camera's picture.

        Raises:
            ValueError: there is none.
        """
        if IMAGE_KEY not in (self.input_features or {}):
            raise ValueError(f"lift_vla needs the feature {IMAGE_KEY}, got {sorted(self.input_features or {})}")
