"""The limits of the verdict: what an honest grasp and lift measure, with a margin."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Limits of an honest grasp, with a margin. "Measured" refers to the holds of the honest lifts in
    docs/verdict.md."""

    min_height_m: float = 0.08
    """Height of the cube's lowest point above the table top. The report (sec. 5.7) says 8 cm, and measured it from the
    floor."""
    min_rise_m: float = 0.07
    """Rise of the cube's centre and of the gripper, each in the world frame, since the cube last lay on the table.
    Ours: 1 cm less than `min_height_m`, because the table carries a cube up to `on_table_m`, and a cube may turn as
    it leaves."""
    fit_margin_m: float = 0.004
    """Tolerance of the finger opening, which must lie between the cube's shortest edge and its extent along the closing
    axis (a cube that is held across its edges is wider than its edge). With something else between the fingers, the
    opening lies outside. Ours. Measured: at least 0.7 mm above the shortest edge, and at least 0.2 mm below the extent;
    fingers closed on nothing are 30 mm below the smallest cube."""
    min_squeeze_n: float = 2.0
    """Force of each finger on the cube along the closing axis, towards the other finger. Ours: a tenth of what the
    motors exert (measured: 10-21 N). ManiSkill's `is_grasping` requires 0.5 N."""
    max_squeeze_angle_deg: float = 40.0
    """Angle between the normal force of a finger on the cube and the closing axis; beyond it, the finger carries the
    cube instead of pressing it. Ours: a cube that is gripped askew presses on the edges of the pads, at angles up to
    this limit (measured), and turns into the grip while it is held. ManiSkill allows 85."""
    min_borne_weights: float = 0.5
    """Upward force of the fingers on the cube, in weights of the cube. Measured: 1.00 at rest, 0.76 when the hand
    brakes at the end of a lift. Below half, something else carries most of the cube."""
    max_slip_speed_mps: float = 0.020
    """Linear velocity of the cube relative to the gripper, both at the cube's centre. Ours: three times what a hold
    shows while white noise of 0.1 shakes the arm (docs/verdict.md). For a steady slip `max_drift_m` is stricter: within
    1 s this velocity would add up to 20 mm."""
    max_slip_spin_radps: float = 0.5
    """Angular velocity of the cube relative to the gripper. Ours: four times what the shaken hold shows."""
    max_drift_m: float = 0.005
    """Movement of the cube in the gripper's frame since the hold began. Ours: an eighth of the cube, and five times the
    measured 0.9 mm."""
    hold_steps: int = 20
    """Control steps from the first state of a hold to the last, 1.0 s at 20 Hz: every condition holds in 21 states in a
    row. A cube thrown upwards stays above 8 cm for 10-12 steps (measured)."""
    control_period_s: float = 0.05
    """Time between two judged states: 20 Hz, robosuite's own. Otherwise `hold_steps` would not be a second."""
    period_tolerance_s: float = 0.001
    """Half of a physics step: a control period with one substep more or less is outside."""
    on_table_m: float = 0.005
    """Distance of the cube's lowest point from the table top, above or below, up to which the table carries the cube.
    Ours: the cube lies at -0.1 mm (measured), and tips when it is pushed."""
    max_jump_m: float = 0.05
    """Movement of the cube within a control step, beyond what the larger of its speeds before and after explains. A
    fall or a throw stays below, whatever its speed; a cube that is teleported does not."""
    rest_steps: int = 10
    """Control steps for which the cube must lie still and untouched on the table after such a jump, before a lift
    counts again. Ours: half a second. Fingers that wait around that place close in less, and the expert takes longer to
    return to a cube that was snatched from it (26 steps from there to the next hold, measured)."""
    max_start_height_m: float = 0.002
    """Distance of the cube's lowest point from the table top, above or below, when the episode begins; the reset lays
    the cube there."""
    max_start_speed_mps: float = 0.02
    """Speed of the cube when the episode begins, and while it rests: 1 mm in a control step. Measured: 0."""
    version: int = 3
    """Version of the rules and measurements that these limits belong to: a result of another one is stale. 1: the first
    verdict; 2: the settled start and the carried cube; 3: the watch over the world, raised, a full second."""
