"""Options of the collection of demonstrations, checked where they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.demos.schema import DEMO_FILES
from vla.errors import UserError
from vla.experts.scripted import ExpertConfig
from vla.files import sha256
from vla.shards import Shard
from vla.sim.config import TRAIN_SEEDS, EnvConfig, Scene, SceneKind
from vla.sim.engines import Engine, default_workers

ATTEMPTS_PER_SCENE = 5
"""Seeds that are tried until the demonstrations of one succeed."""
ROTATION_NOISE = ExpertConfig.rotation_noise_std / ExpertConfig.noise_std
"""Rotation noise for each unit of position noise."""
DETOURS, SLIPS = 3, 1
"""Largest number of deliberate mistakes in a demonstration of recovery."""
RENDER_SIZES_PX = range(32, 1025)


@dataclass(frozen=True)
class CollectOptions:
    """Options of the collection."""

    output: Path | None = None
    """HDF5 file to write; by default data/lift_demos.hdf5, or data/cubes_demos.hdf5 for the scene cubes."""
    scene: SceneKind = "lift"
    """lift: the report's, with one red cube. cubes: several cubes, of which the instruction names one, or none."""
    num_episodes: int = 150
    """Demonstrations to keep. The default is three times the report's 50: they are cheap, and each shows other
    mistakes."""
    cubes: tuple[int, ...] = Scene.counts
    """In the scene cubes: the numbers of cubes on the table, equally likely."""
    same_colour_share: float = 0.25
    """In the scene cubes: share of the scenes in which two cubes have the same colour."""
    demos_per_seed: int = 2
    """In the scene cubes: demonstrations that begin in one scene, under instructions of different meaning."""
    stills: int = 0
    """In the scene cubes: stills to collect beside the demonstrations, in a file of their own: single moments, each on
    another table, with the expert's action for every cube."""
    seed: int = 0
    """Seed of the first scene; the i-th tries seed + 5 i and up to four seeds after it. In the scene lift, each
    demonstration begins in a scene of its own."""
    workers: int = field(default_factory=default_workers)
    """Simulator processes."""
    engine: Engine = "local"
    """Where they run: on this machine, or as tasks of a Ray cluster, which --workers does not limit (docs/scale.md)."""
    shard: str | None = None
    """Record only a part of the demonstrations, such as 3/16, in each of several jobs with one shared --output; then
    the same command without it writes the file (docs/scale.md)."""
    max_steps: int = 200
    """Control steps (20 per second) after which an episode counts as failed."""
    noise_std: float = ExpertConfig.noise_std
    """Noise on the executed position action before the grasp, in action units (1.0 = 5 cm); 0 switches it off.
    The recorded label has no noise (DART)."""
    recovery_fraction: float = 1.0
    """Share of episodes with deliberate mistakes: up to three detours to a random place around the cube, some with
    closed fingers, and a slip. The labels show the way back."""
    dagger: Path | None = None
    """Checkpoint of a policy that acts for the first 20-99 steps of each episode while the expert labels; then the
    expert takes over. The episodes are added to OUTPUT."""
    videos_dir: Path = Path("videos")
    """Folder of the videos."""
    video_episodes: tuple[int, ...] = (10,)
    """Demonstrations, counted from 1, to make a video of. Without a value, the option means none."""
    overwrite: bool = False
    """Replace an existing file of demonstrations, and discard an interrupted collection that had other options. A file
    that this script did not write is never replaced."""

    replay: Path | None = None
    """File of demonstrations to replay instead of collecting: its actions are simulated again, every state is compared
    with the stored one, and the present verdict judges anew."""
    render_size: int | None = None
    """With --replay: draw the stored states anew into --output, with images of this height and width in pixels."""
    camera: str | None = None
    """With --replay: draw the stored states anew into --output, with this camera of robosuite, such as frontview."""

    def __post_init__(self) -> None:
        self._check_replay()
        if self.num_episodes < 1:
            raise UserError(f"--num-episodes must be at least 1, got {self.num_episodes}")
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")
        if self.max_steps < 1:
            raise UserError(f"--max-steps must be at least 1, got {self.max_steps}")
        if self.shard is not None and self.overwrite:
            raise UserError("--shard: other shards' demonstrations would be given up; leave --overwrite out")
        self.part()
        if self.stills < 0 or (self.stills and self.scene != "cubes"):
            raise UserError(f"--stills must be at least 0, and needs --scene cubes, got {self.stills}")
        if not 0 <= self.noise_std <= 1:
            raise UserError(f"--noise-std must lie in [0, 1], got {self.noise_std}")
        if not 0 <= self.recovery_fraction <= 1:
            raise UserError(f"--recovery-fraction must lie in [0, 1], got {self.recovery_fraction}")
        if self.dagger is not None and self.recovery_fraction != 1:
            raise UserError("--recovery-fraction: with --dagger the policy makes mistakes of its own; leave it out")
        if self.demos_per_seed < 1 or self.num_episodes % self.group:
            raise UserError(
                f"--num-episodes must be a multiple of --demos-per-seed, which must be at least 1, got "
                f"{self.num_episodes} and {self.demos_per_seed}"
            )
        self.env()  # checks the scene
        last = self.seeds(range(self.num_episodes // self.group))[-1]
        if self.seed not in TRAIN_SEEDS or last not in TRAIN_SEEDS:
            raise UserError(
                f"--seed {self.seed} with {self.num_episodes} episodes needs seeds up to {last}, outside the "
                f"training range {TRAIN_SEEDS.start}-{TRAIN_SEEDS.stop - 1} (others are kept for evaluation)"
            )

    def _check_replay(self) -> None:
        if self.draws_anew and (self.replay is None or self.output is None):
            raise UserError("--render-size and --camera need --replay with a file, and --output with a new one")
        collecting = {"shard": None, "dagger": None, "stills": 0, "overwrite": False, "engine": "local"}
        given = [f"--{name}" for name, unset in collecting.items() if getattr(self, name) != unset]
        if self.replay is not None and given:
            raise UserError(f"--replay collects nothing: leave {' '.join(given)} out")
        if self.replay is not None and self.output is not None and not self.draws_anew:
            raise UserError("--replay with --output needs --render-size or --camera; a replay alone writes nothing")
        if self.render_size is not None and self.render_size not in RENDER_SIZES_PX:
            smallest, largest = RENDER_SIZES_PX[0], RENDER_SIZES_PX[-1]
            raise UserError(f"--render-size must be {smallest} to {largest} pixels, got {self.render_size}")

    @property
    def draws_anew(self) -> bool:
        """Whether stored demonstrations get other images."""
        return self.render_size is not None or self.camera is not None

    @property
    def file(self) -> Path:
        """The HDF5 file to write."""
        return self.output or DEMO_FILES[self.scene]

    def part(self) -> Shard | None:
        """The part of the demonstrations to record; None: all, into the file."""
        return None if self.shard is None else Shard.parse(self.shard)

    @property
    def group(self) -> int:
        """Demonstrations of one scene."""
        return 1 if self.scene == "lift" else self.demos_per_seed

    def env(self) -> EnvConfig:
        """The simulator of the demonstrations."""
        scene = Scene() if self.scene == "lift" else Scene(self.scene, self.cubes, self.same_colour_share)
        return EnvConfig(horizon_steps=self.max_steps, scene=scene)

    def seeds(self, scenes: range) -> range:
        """Seeds that the scenes of these numbers may try."""
        return range(self.seed + ATTEMPTS_PER_SCENE * scenes.start, self.seed + ATTEMPTS_PER_SCENE * scenes.stop)

    def settings(self) -> dict[str, Any]:
        """The options that decide the content of the file, as JSON types."""
        settings: dict[str, Any] = {
            "num_episodes": self.num_episodes,
            "seed": self.seed,
            "max_steps": self.max_steps,
            "noise_std": self.noise_std,
            "recovery_fraction": self.recovery_fraction,
            "dagger": None if self.dagger is None else sha256(self.dagger),
        }
        if self.scene == "cubes":
            settings |= {"scene": self.env().scene.to_json_types(), "demos_per_seed": self.demos_per_seed}
        return settings

    def expert(self, index: int) -> ExpertConfig:
        """The expert's configuration in scene `index`; demonstrations with mistakes are spread evenly."""
        fraction = self.recovery_fraction
        recovers = math.floor((index + 1) * fraction) > math.floor(index * fraction)
        if self.dagger is not None:  # the policy makes mistakes of its own
            recovers = False
        return ExpertConfig(
            noise_std=self.noise_std,
            rotation_noise_std=ROTATION_NOISE * self.noise_std,
            detours=DETOURS if recovers else 0,
            slips=SLIPS if recovers else 0,
        )
