"""The arms of what_matters.py: what each changes of the `cpu` recipe or of its demonstrations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One row of the table: what differs from the reference."""

    what: str
    demos: int = 150
    """Demonstrations, of which a tenth is kept back for validation."""
    collect: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    batch: int = 32
    """Windows in a batch."""
    step_cost: float = 1.0
    """Time of a training step, divided by the reference's; the arm has so many times fewer steps."""
    dagger: str = ""
    """Arm whose policy acts in the last third of the demonstrations (`1_collect_demos.py --dagger`)."""

    @property
    def has_own_demonstrations(self) -> bool:
        """Whether it is validated on other demonstrations than the reference."""
        return bool(self.collect or self.dagger) or self.demos > Arm.demos


REFERENCE = "reference"
REPORT = (
    "--pooling",
    "average",
    "--set",
    "observation_horizon=10",
    "windows_per_segment=8",
    "batch_windows=48",
    "gripper_loss=mse",
    "gripper_weight=0.1667",
    "auxiliary_weight=0",
    "chunk_discount=1",
    "history_dropout=0",
)
NO_NOISE = ("--noise-std", "0", "--recovery-fraction", "0")
ARMS = {
    REFERENCE: Arm("reference: the `cpu` recipe on 150 demonstrations"),
    "demos-200": Arm("200 demonstrations", 200),
    "demos-100": Arm("100 demonstrations", 100),
    "demos-50": Arm("50 demonstrations", 50),
    "demos-25": Arm("25 demonstrations", 25),
    "demos-10": Arm("10 demonstrations", 10),
    "no-recovery": Arm("noise, but no detours and slips", collect=("--recovery-fraction", "0")),
    "no-noise": Arm("neither noise nor detours and slips", collect=NO_NOISE),
    "dagger": Arm("100 demonstrations, then 50 in which the policy learned from them acts first", dagger="demos-100"),
    "no-auxiliary": Arm("no auxiliary loss", train=("--set", "auxiliary_weight=0")),
    "equal-chunk": Arm("all actions of a chunk weigh the same", train=("--set", "chunk_discount=1")),
    "gripper-mse": Arm("MSE for the gripper", train=("--set", "gripper_loss=mse", "gripper_weight=0.1667")),
    "average-pooling": Arm("average pooling", train=("--pooling", "average")),
    "proprioception": Arm("the arm's own state beside the picture", train=("--proprioception",)),
    "history": Arm(
        "ten frames (half of the windows: the present one only)",
        train=("--set", "observation_horizon=10", "windows_per_segment=8", "batch_windows=48", "history_dropout=0.5"),
        batch=48,
        step_cost=2.8,
    ),
    "report": Arm(
        "the report's choices: 50 clean demonstrations, MSE, average pooling, ten frames",
        50,
        NO_NOISE,
        REPORT,
        48,
        step_cost=2.8,
    ),
}
DISCUSSED = (REFERENCE, "no-noise", "equal-chunk")
"""Arms that are trained with several seeds, the more important first. An arm that has not been is not shown."""
