"""Messages between the page and its simulator's process. Neither side imports the other for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vla.evaluation.task import EvalTask
from vla.judging.verdict import Judge
from vla.sim.config import Placement
from vla.sim.rollout import Step
from vla.sim.table import TableLayout


@dataclass(frozen=True)
class Retarget:
    """From here on, the verdict is about this cube."""

    target: int | None
    """Number of the cube in the `TableLayout`; None: nothing may move."""


@dataclass(frozen=True)
class Intervention:
    """What a visitor does to a running episode before its next step."""

    embedding: np.ndarray | None = None
    """(text_dim,) embedding of a new instruction; None: the policy's instruction stays."""
    push: bool = False
    """Flick the target; without one, the first cube."""
    retarget: Retarget | None = None
    """Another cube is named; None: the target stays."""


@dataclass(frozen=True)
class ViewRequest:
    """Reset the simulator and show how the episode of `seed` begins. The answer is a `CameraView`."""

    seed: int
    placement: Placement | None = None
    """Where the cube lies; None: where the seed puts it."""


@dataclass(frozen=True)
class EpisodeRequest:
    """Start an episode. The answer is the `TableLayout` that it begins with."""

    task: EvalTask
    placement: Placement | None = None
    """Where the cube lies; None: where the seed puts it."""


@dataclass(frozen=True)
class StepRequest:
    """Run the next control step. The answer is a `StepView`, or the final `Judge` when the episode has ended."""

    intervention: Intervention = field(default_factory=Intervention)


@dataclass(frozen=True)
class CameraView:
    """A camera image and what was known of the scene when it was taken."""

    image: np.ndarray
    """(224, 224, 3) uint8."""
    eef_pos: np.ndarray
    """(3,) grip site, world frame, metres."""
    camera_matrix: np.ndarray
    """(3, 4), see `vla.sim.env.Simulator.camera_matrix`."""
    cube_pos: np.ndarray
    """(3,) world frame, metres."""
    cube_yaw_deg: float
    """Angle about the vertical, in [-45, 45)."""


@dataclass(frozen=True)
class EpisodeStart:
    """An episode that has started."""

    number: int
    """Identifies the episode in later step requests."""
    layout: TableLayout
    """What lies on the table."""


@dataclass(frozen=True)
class StepView:
    """One control step of a running episode, and everything that the page shows of it."""

    step: Step
    judge: Judge
    """State of the verdict after this step."""
    action_chunk: np.ndarray
    """(K, 7) in [-1, 1], planned from the step's image; (1, 7) for a control."""
    camera_matrix: np.ndarray
    """(3, 4), see `vla.sim.env.Simulator.camera_matrix`."""


Request = ViewRequest | EpisodeRequest | StepRequest
Answer = CameraView | TableLayout | StepView | Judge
