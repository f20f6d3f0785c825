"""One episode of an evaluation as a task for a simulator worker (`vla.evaluation.worker`). Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.errors import UserError
from vla.evaluation.asked_episodes import Switch
from vla.files import FileVersion, file_version
from vla.policies.execution import ControlConfig
from vla.sim.config import Scene
from vla.sim.perturbations import Perturbation


@dataclass(frozen=True)
class EvalTask:
    """One episode to run in a worker; paths and plain values only."""

    policy: str
    """One of `vla.experts.controls.CONTROLS`, or "checkpoint"."""
    checkpoint: Path
    embedding: np.ndarray
    """(dim,) raw embedding of the instruction, computed once by the parent process."""
    seed: int
    instruction: str
    max_steps: int
    control: ControlConfig
    video: Path | None
    """MP4 file to write; None: no video."""
    blind: bool = False
    push: bool = False
    perturbation: Perturbation | None = None
    target: int | None = 0
    """Number of the cube that the instruction names (`vla.sim.table.TableLayout`); None: no cube is to be moved."""
    server: str | None = None
    """Address of the inference server that computes the policy (`vla.policies.inference_server`); None: the worker
    computes it on one CPU thread."""
    checkpoint_version: FileVersion | None = None
    """The file that must be loaded (`vla.files.file_version`); None: whatever file lies there now."""
    scene: Scene | None = None
    """What may lie on the table; None: what the simulator was made with."""
    switch: Switch | None = None
    """Another instruction on the way; `target` is then the cube that this one names."""
    switch_embedding: np.ndarray | None = None
    """(dim,) raw embedding of the instruction of `switch`."""
    recorded: bool = True
    """False: of the recording, only the first state is kept, when the episode has been judged."""


def check_not_rewritten(checkpoint: Path, version: FileVersion | None) -> None:
    """Check, after a checkpoint was read, that it is still the file of this version; None: any file will do.

    Raises:
        UserError: it was rewritten, and what was read may be another policy.
    """
    if version is not None and file_version(checkpoint) != version:
        raise UserError(f"{checkpoint} was rewritten while it was being evaluated; copy it and evaluate the copy")
