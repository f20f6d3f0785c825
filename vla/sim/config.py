"""What decides an episode apart from the policy: the scene, the camera, the seeds and the simulator's versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from vla.errors import UserError

ACTION_DIM = 7
"""Three position deltas, three rotation deltas (axis-angle), one gripper command; all in [-1, 1]."""
POSITION_SCALE_M = 0.05
"""Displacement commanded by a position action of 1.0 (robosuite's OSC_POSE `output_max`)."""
ROTATION_SCALE_RAD = 0.5
"""Rotation commanded by a rotation action of 1.0, about an axis of the world frame."""
GRIPPER_CLOSE = 1.0
GRIPPER_OPEN = -1.0

VERSIONED_PACKAGES = ("robosuite", "mujoco", "numpy")

# Seeds of episodes. Disjoint, so that no episode that chose a checkpoint is ever reported as a test.
TRAIN_SEEDS = range(0, 1_000_000)
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
TEST_SEEDS = range(2_000_000, 3_000_000)


@dataclass(frozen=True)
class Scene:
    """The objects on the table and the one that the instruction speaks of, by robosuite object name."""

    objects: tuple[str, ...] = ("cube",)
    target: str = "cube"

    def __post_init__(self) -> None:
        if self.target not in self.objects:
            raise UserError(f"the scene's target {self.target!r} is not among its objects {self.objects}")


@dataclass(frozen=True)
class Placement:
    """Where a person wants the cube to lie when the episode begins, world frame; the table's middle is (0, 0)."""

    x_m: float
    y_m: float
    yaw_deg: float = 0.0
    """About the vertical; it looks the same after a quarter turn."""


@dataclass(frozen=True)
class EnvConfig:
    """Everything that decides what an episode looks like, apart from its seed."""

    robot: str = "Panda"
    camera: str = "agentview"
    image_size_px: int = 224
    control_freq_hz: int = 20
    horizon_steps: int = 200
    model_seed: int = 0
    """Seeds what robosuite draws once per model: the cube's size."""
    scene: Scene = field(default_factory=Scene)

    def to_env_args(self) -> str:
        """JSON in robomimic's layout (`env_name`, `env_version`, `type`, `env_kwargs`) plus our own keys."""
        kwargs = {
            "robots": self.robot,
            "camera_names": [self.camera],
            "camera_heights": self.image_size_px,
            "camera_widths": self.image_size_px,
            "control_freq": self.control_freq_hz,
            "horizon": self.horizon_steps,
            "reward_shaping": True,
            "seed": self.model_seed,
        }
        return json.dumps(
            {
                "env_name": "Lift",
                "env_version": version("robosuite"),
                "type": 1,
                "env_kwargs": kwargs,
                "scene": dataclasses.asdict(self.scene),
                "versions": installed_versions(),
            }
        )

    @classmethod
    def from_env_args(cls, env_args: str) -> EnvConfig:
        """The configuration that wrote `env_args`."""
        stored: Mapping[str, Any] = json.loads(env_args)
        kwargs = stored["env_kwargs"]
        scene = stored["scene"]
        return cls(
            robot=kwargs["robots"],
            camera=kwargs["camera_names"][0],
            image_size_px=kwargs["camera_heights"],
            control_freq_hz=kwargs["control_freq"],
            horizon_steps=kwargs["horizon"],
            model_seed=kwargs["seed"],
            scene=Scene(tuple(scene["objects"]), scene["target"]),
        )


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide how an episode runs."""
    return {name: version(name) for name in VERSIONED_PACKAGES}


def version_drift(env_args: str) -> str | None:
    """One line naming the packages that differ from those that `env_args` was written with, or None."""
    stored = json.loads(env_args).get("versions", {})
    drift = [
        f"{name} {stored[name]} there, {now} here"
        for name, now in installed_versions().items()
        if name in stored and stored[name] != now
    ]
    return "; ".join(drift) or None


def warn_of_version_drift(env_args: str, what: str) -> None:
    """Print a warning where `what` was made with other versions of the simulator than are installed here."""
    drift = version_drift(env_args)
    if drift:
        print(f"WARNING: {what} was made with other versions ({drift}); physics, pixels and success may differ")
