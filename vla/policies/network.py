"""What a policy network offers to those that run it: its configuration, `encode` and `decode`.

The network itself is `3_model_architecture.VLA`, whose module name cannot stand in an import statement and is therefore
unknown to a type checker. Everything else is typed against these protocols.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from vla.policies.preprocess import ImageSpec


class NetworkConfig(Protocol):
    """What a caller needs of `3_model_architecture.ModelConfig`."""

    @property
    def image(self) -> ImageSpec:
        """The part of the picture that the network sees."""

    @property
    def proprioception(self) -> bool:
        """Whether `encode` needs the arm's own state."""

    @property
    def observation_horizon(self) -> int:
        """T, frames that the policy sees."""

    @property
    def chunk_size(self) -> int:
        """K, actions that the policy predicts."""


class ChunkPrediction(Protocol):
    """What `decode` returns (`3_model_architecture.Prediction`)."""

    def actions(self) -> Tensor:
        """(B, K, 7) in [-1, 1]."""


class PolicyNetwork(Protocol):
    """A network that can drive an arm: in this process, or behind an inference server."""

    @property
    def config(self) -> NetworkConfig:
        """Its configuration."""

    def encode(self, images: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """(N, 3, S, S) prepared images and (N, 4) proprioception -> (N, 512) features."""

    def decode(self, features: Tensor, language: Tensor) -> ChunkPrediction:
        """(B, T, 512) features and (B, 512) raw instruction embeddings -> chunks of K actions."""
