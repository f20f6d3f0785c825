"""How predicted action chunks are executed, and in which numbers they are computed. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vla.errors import UserError

Precision = Literal["float32", "bfloat16"]
"""Numbers that the convolutions and the decoder multiply. float32: the same actions as the trained network. bfloat16:
faster where the processor multiplies it natively, but actions differ in the third decimal."""


@dataclass(frozen=True)
class ControlConfig:
    """How the predicted action chunks are executed."""

    execute_steps: int = 1
    """Actions executed of each chunk before the next prediction (report sec. 5.1.2: the first only)."""
    ensemble_decay: float | None = None
    """Temporal ensembling (ACT, Zhao et al. 2023): each step executes the mean of all chunks that reach it, the
    i-th oldest with weight exp(-decay i). None turns it off. Needs execute_steps 1."""
    precision: Precision = "float32"
    """Numbers in which the network computes (`vla.policies.kernels`); whoever loads the network reads it."""

    def __post_init__(self) -> None:
        if self.execute_steps < 1:
            raise UserError(f"--execute-steps must be at least 1, got {self.execute_steps}")
        if self.ensemble_decay is not None and (self.execute_steps != 1 or self.ensemble_decay < 0):
            raise UserError("temporal ensembling needs a decay of at least 0 and --execute-steps 1")

    def check(self, chunk_size: int) -> None:
        """Raise a UserError if chunks of `chunk_size` actions are too short for `execute_steps`."""
        if self.execute_steps > chunk_size:
            raise UserError(f"--execute-steps {self.execute_steps} exceeds a chunk's {chunk_size} actions")
