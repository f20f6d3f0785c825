"""What a policy network offers: the types that pass between `3_model_architecture` and the rest of the project.

The name of that module starts with a digit, so no import statement can name it, and a type checker does not know what
it holds. Everything else is typed against the protocols here, and the module states that its classes fulfil them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from vla import stages
from vla.policies.batch import Batch
from vla.policies.preprocess import ImageSpec

Locates = Literal["target", "every", "named", "both"]
"""The cubes whose positions the auxiliary heads learn. target: the target's, from the picture alone. every: those of
every cube that an instruction can name (`vla.policies.located`), from the picture alone. named: the target's, from what
the fusion makes of picture and instruction. both: every and named."""
LanguageInVision = Literal["none", "film", "attention", "both"]
"""What the instruction does before the fusion (`3_model_architecture.ModelConfig`)."""


class NetworkConfig(Protocol):
    """The configuration of a network (`3_model_architecture.ModelConfig`), as far as its callers need it."""

    @property
    def image(self) -> ImageSpec:
        """The part of the picture that the network sees."""

    @property
    def proprioception(self) -> bool:
        """Whether `encode` needs the arm's own state."""

    @property
    def encodes_language(self) -> bool:
        """Whether `encode` needs the instruction."""

    @property
    def text_dim(self) -> int:
        """Width of the instruction's embedding."""

    @property
    def observation_horizon(self) -> int:
        """T, frames that the policy sees."""

    @property
    def chunk_size(self) -> int:
        """K, actions that the policy predicts."""

    def to_dict(self) -> dict[str, object]:
        """Plain types only, for the checkpoint."""


class Prediction(NamedTuple):
    """A chunk of K actions for each of B windows."""

    motion: Tensor
    """(B, K, 6) position and rotation deltas, aimed at [-1, 1]."""
    gripper_logit: Tensor
    """(B, K) log-odds of closing."""
    named: Tensor | None = None
    """(B, 12) where the cube is that the instruction names (`3_model_architecture.auxiliary_targets` without the
    opening), in training only, and only if so configured."""

    def actions(self) -> Tensor:
        """(B, K, 7) in [-1, 1]; the gripper is 2 P(close) - 1."""
        gripper = torch.tanh(self.gripper_logit / 2).unsqueeze(-1)
        return torch.cat([self.motion.clamp(-1, 1), gripper], dim=-1)

    def float(self) -> Prediction:
        """The same prediction in float32, for the losses."""
        named = None if self.named is None else self.named.float()
        return Prediction(self.motion.float(), self.gripper_logit.float(), named)


class Losses(NamedTuple):
    """Scalars of one batch; `total` is minimised."""

    total: Tensor
    motion: Tensor
    """MSE of the six motion dimensions."""
    gripper: Tensor
    """Cross-entropy (or MSE) of the gripper."""
    auxiliary: Tensor
    """MSE of the auxiliary head."""
    position: Tensor
    """MSE of the auxiliary head's positions alone, decimetres squared."""
    first_motion: Tensor
    """MSE of the chunk's first action alone: the one that control executes."""
    first_gripper_accuracy: Tensor
    """Share of windows whose first gripper command is right."""


class LossSettings(Protocol):
    """How the parts of the loss are weighted (`vla.training.recipes.Recipe`)."""

    @property
    def gripper_weight(self) -> float:
        """Weight of the gripper's loss relative to the motion's."""

    @property
    def gripper_loss(self) -> Literal["cross-entropy", "mse"]:
        """Kind of the gripper's loss."""

    @property
    def auxiliary_weight(self) -> float:
        """Weight of the auxiliary head's loss relative to the motion's."""

    @property
    def chunk_discount(self) -> float:
        """Weight of an action of the chunk relative to the one before it."""


class PolicyNetwork(Protocol):
    """A network that can drive an arm: in this process, or behind an inference server."""

    @property
    def config(self) -> NetworkConfig:
        """Its configuration."""

    def encode(self, images: Tensor, proprioception: Tensor | None = None, language: Tensor | None = None) -> Tensor:
        """(N, 3, S, S) prepared images, (N, 4) proprioception, (N, text_dim) raw instruction embeddings -> (N, 512)
        features."""

    def decode(self, features: Tensor, language: Tensor) -> Prediction:
        """(B, T, 512) features and (B, text_dim) raw instruction embeddings -> chunks of K actions."""


class TrainableNetwork(PolicyNetwork, Protocol):
    """A network in this process, with its weights (`3_model_architecture.VLA`)."""

    @property
    def vision(self) -> nn.Module:
        """The vision encoder, which pretrained weights can fill."""

    def fit_language(self, embeddings: Tensor) -> None:
        """Set the normalisation of instruction embeddings from (n, 512) of them."""

    def __call__(
        self, images: Tensor, windows: Tensor, language: Tensor, proprioception: Tensor | None = None
    ) -> tuple[Prediction, Tensor]:
        """Training pass: (N, 3, S, S) frames, (B, T) windows -> B chunks, (N, 12 M + 1) of the auxiliary head."""

    def forward(
        self, images: Tensor, windows: Tensor, language: Tensor, proprioception: Tensor | None = None
    ) -> tuple[Prediction, Tensor]:
        """What `__call__` runs. torch types every call of a module as Any; this line lets mypy compare signatures."""

    def to(self, device: torch.device) -> object:
        """Move the weights, in place."""

    def to_empty(self, *, device: str) -> object:
        """Give the weights memory on a device without filling it, in place."""

    def train(self) -> object:
        """Switch dropout on and let batch normalisation learn, in place."""

    def eval(self) -> object:
        """Switch dropout off and fix batch normalisation, in place."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trainable tensors."""

    def state_dict(self) -> dict[str, Any]:
        """All weights and buffers by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """Fill all weights and buffers; a RuntimeError where the names or shapes are others."""


class ConfigClass(Protocol):
    """The class `3_model_architecture.ModelConfig`: how a configuration is made."""

    def __call__(
        self,
        *,
        image: ImageSpec = ...,
        pooling: Literal["average", "keypoints"] = ...,
        proprioception: bool = ...,
        observation_horizon: int = ...,
        located_cubes: int = ...,
        locates_named: bool = ...,
        language_in_vision: LanguageInVision = ...,
        text_dim: int = ...,
        dropout: float = ...,
    ) -> NetworkConfig:
        """A configuration for a new network."""

    def from_dict(self, stored: Mapping[str, Any]) -> NetworkConfig:
        """The configuration that `NetworkConfig.to_dict` wrote; a UserError where it is of another architecture."""


class Architecture(Protocol):
    """The module `3_model_architecture`."""

    ModelConfig: ConfigClass
    VLA: Callable[[NetworkConfig], TrainableNetwork]

    def compute_losses(
        self,
        prediction: Prediction,
        auxiliary: Tensor,
        batch: Batch,
        settings: LossSettings,
        whole: Batch | None = None,
    ) -> Losses:
        """The losses of one batch, or its share of those of the `whole`; all in float32, on one device."""


def model_architecture() -> Architecture:
    """`3_model_architecture.py`, typed."""
    return cast(Architecture, stages.model_architecture())
