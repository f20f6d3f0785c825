"""Losses of an epoch: they stay on the device until they are read together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class LossMeter:
    """Sums losses over the batches of an epoch.

    Copying a number from a GPU waits for all work before it, so the numbers of several batches are copied at once.
    """

    def __init__(self) -> None:
        self.batches = 0
        """Batches that have been read."""
        self._names: tuple[str, ...] = ()
        self._unread: list[Tensor] = []
        self._sums: dict[str, float] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Note the losses of one batch, scalars by name; nothing is copied yet."""
        self._names = tuple(losses)
        self._unread.append(torch.stack([value.detach() for value in losses.values()]))

    def read(self) -> list[dict[str, float]]:
        """Copy the losses added since the last call from the device; returns those of each batch."""
        if not self._unread:
            return []
        rows = torch.stack(self._unread).tolist()
        self._unread.clear()
        read = [dict(zip(self._names, row, strict=True)) for row in rows]
        for losses in read:
            for name, value in losses.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        self.batches += len(read)
        return read

    def means(self, prefix: str) -> dict[str, float]:
        """Means over the batches that have been read, named `prefix/name`."""
        return {f"{prefix}/{name}": value / self.batches for name, value in self._sums.items()}
