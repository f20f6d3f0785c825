"""What an attack on the verdict is, and what attacks have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.attacks.director import Director
from vla.sim.config import GRIPPER_CLOSE, GRIPPER_OPEN

UP = np.array([0.0, 0.0, 1.0])
STILL = np.array([0, 0, 0, 0, 0, 0, GRIPPER_OPEN])
CLOSED = np.array([0, 0, 0, 0, 0, 0, GRIPPER_CLOSE])
LEVEL = np.array([1.0, 0.0, 0.0, 0.0])
"""Orientation (w x y z) of a cube whose edges lie along the world's axes."""


@dataclass(frozen=True)
class Attack:
    """One attempt to fool the verdict."""

    what: str
    """The attack in words, for the tables."""
    run: Callable[[Director], None]
    only: str | None = None
    """The only condition that rejects the attack (one of `director.ALL_CONDITIONS`); None where several do."""
    declared: bool = True
    """Its changes of the simulator are declared, so that the conditions have to reject it; otherwise the watch over the
    world has to find them."""
