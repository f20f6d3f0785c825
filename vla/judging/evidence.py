"""The evidence of one state, which the verdict is judged from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from vla.judging.thresholds import Thresholds


@dataclass(frozen=True)
class Evidence:
    """Measurements of one state of the simulator, after a forward pass (`vla.judging.measurement.measure`).

    Units are SI units unless a name says otherwise. The closing axis points from the left finger's pad to the right's.
    """

    time_s: float
    """Time of the simulation."""
    cube_pos: np.ndarray
    """(3,) centre of the cube, world frame, metres."""
    gripper_pos: np.ndarray
    """(3,) grip site between the finger tips, world frame, metres."""
    cube_in_gripper: np.ndarray
    """(3,) centre of the cube in the gripper's frame, metres."""
    cube_speed_mps: float
    """Linear speed of the cube in the world."""
    height_m: float
    """Height of the cube's lowest point above the table top."""
    opening_m: float
    """Distance between the fingers."""
    cube_width_m: float
    """Shortest edge of the cube."""
    cube_extent_m: float
    """Extent of the cube along the closing axis."""
    closing_commanded: bool
    """The latest action whose gripper command is not exactly 0 closes the gripper; 0 leaves the motors as they are."""
    left_touch: bool
    """The left finger touches the cube."""
    right_touch: bool
    """The right finger touches the cube."""
    left_squeeze_n: float
    """Normal force of the left finger on the cube along the closing axis, towards the right finger."""
    right_squeeze_n: float
    """Normal force of the right finger on the cube along the closing axis, towards the left finger."""
    left_angle_deg: float
    """Angle between the left finger's normal force and the closing axis; 180 without a force."""
    right_angle_deg: float
    """Angle between the right finger's normal force and the opposite of the closing axis; 180 without a force."""
    borne_weights: float
    """Upward force of the fingers on the cube, friction included, in weights of the cube (mass times 9.81 m/s^2)."""
    between_pads: bool
    """The cube's centre lies between the finger pads, within half of its shortest edge of the line between them."""
    slip_speed_mps: float
    """Linear speed of the cube relative to the gripper, both at the cube's centre."""
    slip_spin_radps: float
    """Angular speed of the cube relative to the gripper."""
    other_contact: bool
    """The cube touches something that is not a finger (table, hand, arm)."""
    world_change: str = ""
    """First change of the world in this episode that nobody declared, in words (`vla.judging.world`); "": none."""

    def fits(self, limits: Thresholds) -> bool:
        """Whether the finger opening is the cube's width."""
        margin = limits.fit_margin_m
        return bool(self.cube_width_m - margin <= self.opening_m <= self.cube_extent_m + margin)

    def is_grasped(self, limits: Thresholds) -> bool:
        """Whether both fingers squeeze the cube, with a gripper that is neither open nor closed on nothing."""
        squeezed = min(self.left_squeeze_n, self.right_squeeze_n) >= limits.min_squeeze_n
        return bool(squeezed and self.fits(limits) and self.between_pads)

    def not_finite(self) -> list[str]:
        """Names of the fields that are not finite: a comparison with such a number means nothing."""
        return [name for name in MEASURED if not np.isfinite(getattr(self, name)).all()]


MEASURED = tuple(each.name for each in fields(Evidence) if each.name != "world_change")
"""Names of the fields of `Evidence` that are numbers."""
