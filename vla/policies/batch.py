"""A batch of training data: what the dataset (2_dataset_loader.py) hands to the network and its losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """Consecutive windows of one episode: W windows over N frames, each frame stored once."""

    frames: Tensor
    """(N, R, R, 3) uint8, the region of interest with its margin."""
    windows: Tensor
    """(W, T) int64, the frames of each window; the last is the one from which the first action follows."""
    actions: Tensor
    """(W, K, 7) float32 in [-1, 1], the expert's next K actions."""
    mask: Tensor
    """(W, K) bool, False where the episode had already ended."""
    positions: Tensor
    """(N, 3 M + 1) float32, decimetres: cube minus gripper for each of M cubes, finger opening; for the auxiliary loss
    only."""
    present: Tensor | None
    """(N, M) bool, whether each cube is on the table; None: all are."""
    named: Tensor
    """(W, 4) float32: the named cube minus gripper at the last frame of each window, decimetres, and 1; zeros where the
    instruction names none."""
    proprioception: Tensor
    """(N, 4) float32, decimetres (`vla.policies.preprocess.proprioception`); for a policy that asks for it."""
    instructions: list[str]
    """The instruction of each window."""


class Batch(NamedTuple):
    """B windows over N frames, from several segments of demonstrations. It cannot be changed; `_replace` copies it.

    Frames are stored once, although neighbouring windows share most of theirs.
    """

    frames: Tensor
    """(N, R, R, 3) uint8, the region of interest with its margin."""
    segments: Tensor
    """(N,) int64, the segment of each frame: 0, 1, ... in order. Stays on the CPU, where the augmentation reads it."""
    windows: Tensor
    """(B, T) int64, the frames of each window; the last is the one from which the first action follows."""
    actions: Tensor
    """(B, K, 7) float32 in [-1, 1], the expert's next K actions."""
    mask: Tensor
    """(B, K) bool, False where the episode had already ended; such actions count nowhere."""
    positions: Tensor
    """(N, 3 M + 1) float32, decimetres: cube minus gripper for each of M cubes, finger opening; for the auxiliary loss
    only."""
    present: Tensor | None
    """(N, M) bool, whether each cube is on the table; None: all are."""
    named: Tensor
    """(B, 4) float32: the named cube minus gripper at the last frame of each window, decimetres, and 1; zeros where the
    instruction names none. For the auxiliary loss behind the fusion only."""
    proprioception: Tensor
    """(N, 4) float32, decimetres (`vla.policies.preprocess.proprioception`); for a policy that asks for it."""
    instructions: list[str]
    """The instruction of each of the B windows."""

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors, except `segments`, on `device`."""
        return self._replace(
            frames=self.frames.to(device, non_blocking=True),
            windows=self.windows.to(device, non_blocking=True),
            actions=self.actions.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            present=None if self.present is None else self.present.to(device, non_blocking=True),
            named=self.named.to(device, non_blocking=True),
            proprioception=self.proprioception.to(device, non_blocking=True),
        )
