"""The configuration of an episode: scene, camera, seeds, and the versions of the simulator's packages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

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
"""Packages whose versions decide how an episode runs."""

TRAIN_SEEDS = range(0, 1_000_000)
"""Seeds of the episodes that are collected for training."""
VALIDATION_SEEDS = range(1_000_000, 2_000_000)
"""Seeds of the episodes that choose a checkpoint."""
TEST_SEEDS = range(2_000_000, 3_000_000)
"""Seeds of the episodes that results are reported of. The three ranges are disjoint: no episode that chose a checkpoint
is reported as a test."""


CUBES = ("cube", "cube2", "cube3", "cube4")
"""robosuite's names of the cubes: Lift's own, and those that only the scene "cubes" has."""
SceneKind = Literal["lift", "cubes"]
MOST_ENV_ARGS = 10_000
"""Characters of `env_args`; ours have some 400."""
MOST_NAME = 100
"""Characters of the name of a robot or a camera."""
MOST = {"image_size_px": 1024, "control_freq_hz": 1000, "horizon_steps": 1_000_000, "model_seed": 2**32 - 1}
"""Largest numbers of a simulator: those of a file from somewhere else must not fill the memory."""


@dataclass(frozen=True)
class Scene:
    """What may lie on the table; the seed of an episode decides what does (`vla.sim.table`)."""

    kind: SceneKind = "lift"
    """lift: robosuite's Lift, with one red cube. cubes: two to four cubes, of which the instruction names one."""
    counts: tuple[int, ...] = (2, 3, 4)
    """In the scene "cubes": the numbers of cubes on the table, equally likely."""
    same_colour_share: float = 0.0
    """In the scene "cubes": share of the episodes in which two cubes have the same colour."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(SceneKind):
            raise UserError(
                f"there are the scenes {' and '.join(get_args(SceneKind))}, got {str(self.kind)[:MOST_NAME]!r}"
            )
        if not self.counts or not set(self.counts) <= set(range(2, len(CUBES) + 1)):
            raise UserError(f"the scene holds 2 to {len(CUBES)} cubes, got {self.counts}")
        if not 0 <= self.same_colour_share <= 1:
            raise UserError(
                f"the share of scenes with two cubes of a colour lies in [0, 1], got {self.same_colour_share}"
            )

    def to_json_types(self) -> dict[str, Any]:
        """Returns the scene for `env_args`. The scene "lift" is written as it was before there were others."""
        if self.kind == "lift":
            return {"objects": ["cube"], "target": "cube"}
        return dataclasses.asdict(self) | {"counts": list(self.counts)}

    @classmethod
    def from_json_types(cls, stored: Mapping[str, Any]) -> Scene:
        """Returns the scene that `to_json_types` wrote."""
        if "kind" not in stored:
            return cls()
        return cls(stored["kind"], tuple(stored["counts"]), stored["same_colour_share"])


@dataclass(frozen=True)
class Placement:
    """A place for the cube at the beginning of an episode, world frame; the table's middle is (0, 0)."""

    x_m: float
    y_m: float
    yaw_deg: float = 0.0
    """Angle about the vertical. The cube looks the same after a quarter turn."""


@dataclass(frozen=True)
class EnvConfig:
    """Everything that determines an episode, apart from its seed and the actions."""

    robot: str = "Panda"
    """robosuite's name of the robot."""
    camera: str = "agentview"
    """robosuite's name of the camera."""
    image_size_px: int = 224
    """Height and width of an image."""
    control_freq_hz: int = 20
    """Control steps per second."""
    horizon_steps: int = 200
    """Control steps after which an episode ends without success."""
    model_seed: int = 0
    """Seed of what robosuite draws once per model: the cube's size."""
    scene: Scene = field(default_factory=Scene)

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            number = getattr(self, name)
            if type(number) is not int or not (name != "model_seed") <= number <= most:
                raise UserError(f"{name} of the simulator must be a whole number up to {most}, got {str(number)[:20]}")
        for name in ("robot", "camera"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > MOST_NAME:
                raise UserError(f"{name} of the simulator must be a name of at most {MOST_NAME} characters")

    def to_env_args(self) -> str:
        """Returns JSON in robomimic's layout (`env_name`, `env_version`, `type`, `env_kwargs`), with keys of our
        own."""
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
                "env_name": "Lift" if self.scene.kind == "lift" else "LiftCubes",
                "env_version": version("robosuite"),
                "type": 1,
                "env_kwargs": kwargs,
                "scene": self.scene.to_json_types(),
                "versions": installed_versions(),
            }
        )

    @classmethod
    def from_env_args(cls, env_args: str) -> EnvConfig:
        """Returns the configuration that `to_env_args` wrote.

        Raises:
            UserError: it wrote no such text.
        """
        check_env_args(env_args)
        return cls._from_json_types(json.loads(env_args))

    @classmethod
    def _from_json_types(cls, stored: Mapping[str, Any]) -> EnvConfig:
        kwargs = stored["env_kwargs"]
        return cls(
            robot=kwargs["robots"],
            camera=kwargs["camera_names"][0],
            image_size_px=kwargs["camera_heights"],
            control_freq_hz=kwargs["control_freq"],
            horizon_steps=kwargs["horizon"],
            model_seed=kwargs["seed"],
            scene=Scene.from_json_types(stored["scene"]),
        )


def check_env_args(env_args: object) -> None:
    """Check that `EnvConfig.to_env_args` wrote this, or could have.

    Raises:
        UserError: it is another text or no text, or asks for a simulator that is none.
    """
    if not isinstance(env_args, str) or len(env_args) > MOST_ENV_ARGS:
        raise UserError(f"env_args is no text of at most {MOST_ENV_ARGS} characters")
    try:
        stored = json.loads(env_args)
        EnvConfig._from_json_types(stored)
        versions = stored.get("versions", {})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"env_args does not describe a simulator: {type(error).__name__}") from None
    if not isinstance(versions, dict) or not all(isinstance(text, str) for text in versions.values()):
        raise UserError("env_args does not say which versions it was made with")


def installed_versions() -> dict[str, str]:
    """Installed versions of VERSIONED_PACKAGES."""
    return {name: version(name) for name in VERSIONED_PACKAGES}


def version_drift(env_args: str) -> str | None:
    """One line that names the packages whose versions differ from those in `env_args`; None where none do."""
    stored = json.loads(env_args).get("versions", {})
    drift = [
        f"{name} {stored[name]} there, {now} here"
        for name, now in installed_versions().items()
        if name in stored and stored[name] != now
    ]
    return "; ".join(drift) or None


def warn_of_version_drift(env_args: str, what: str) -> None:
    """Print a warning if `what` was made with other versions of the simulator than the installed ones."""
    drift = version_drift(env_args)
    if drift:
        print(f"WARNING: {what} was made with other versions ({drift}); physics, pixels and success may differ")
