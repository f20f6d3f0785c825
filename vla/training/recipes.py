"""The training recipes: `full` has the numbers of the report's Table 3, `cpu` those that a laptop can afford, and
`language` those of a policy that does what the instruction says among several cubes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vla.errors import UserError
from vla.policies.located import LOCATED
from vla.policies.network import LanguageInVision, Locates
from vla.policies.preprocess import Augmentation, ImageSpec
from vla.policies.text_encoder import EncoderName
from vla.policies.weights import IMAGENET_WEIGHTS, NO_WEIGHTS

RecipeName = Literal["cpu", "fast", "full", "language"]


@dataclass(frozen=True)
class LanguageSettings:
    """How a policy gets and uses its instruction; the defaults are the report's."""

    text_encoder: EncoderName = "clip"
    """clip: CLIP's text tower; minilm: the sentence encoder all-MiniLM-L6-v2."""
    language_in_vision: LanguageInVision = "none"
    """What the instruction does before the fusion."""
    locates: Locates = "target"
    """The cubes whose positions the auxiliary head learns."""
    wordings: int = 0
    """Wordings of each meaning of the grammar among which training draws anew for each window; 0: the sentence of the
    demonstration stays as it is."""

    def __post_init__(self) -> None:
        if self.wordings < 0:
            raise UserError(f"--wordings must be at least 0, got {self.wordings}")

    @property
    def located_cubes(self) -> int:
        """Number of cubes that the auxiliary head before the fusion locates."""
        return {"target": 1, "every": len(LOCATED), "named": 0, "both": len(LOCATED)}[self.locates]

    @property
    def locates_named(self) -> bool:
        """Whether there is an auxiliary head behind the fusion."""
        return self.locates in ("named", "both")


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; the defaults are the report's (Table 3, sec. 4.1.2)."""

    image: ImageSpec = field(default_factory=ImageSpec)
    augmentation: Augmentation = field(default_factory=Augmentation)
    vision_weights: str = IMAGENET_WEIGHTS
    """Initial weights of ResNet18: torchvision tag, local file, or 'none'."""
    observation_horizon: int = 10
    """T, frames that the policy sees (Table 3's sequence length)."""
    epochs: int = 100
    """Passes over the data."""
    batch_windows: int = 8
    """Windows in a batch (the report's "sequences")."""
    windows_per_segment: int = 2
    """Neighbouring windows served together. They share frames, so more of them cost little."""
    stride: int = 5
    """Steps between the ends of successive windows."""
    hold_stride: int = 1
    """Of the windows that end while the cube is held up, every how many-th is served."""
    learning_rate: float = 1e-4
    """Learning rate at the start of the cosine schedule."""
    min_learning_rate: float = 1e-6
    """Learning rate at the end of the cosine schedule."""
    warmup_fraction: float = 0.0
    """Share of all steps over which the learning rate rises to its initial value."""
    weight_decay: float = 1e-5
    max_gradient_norm: float = 1.0
    """Gradients of a larger norm are scaled down to it."""
    gripper_weight: float = 0.3
    """Weight of the gripper's cross-entropy relative to the motion's MSE (sec. 7.5: a loss of its own)."""
    gripper_loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """mse is the report's, on the command in [-1, 1]."""
    auxiliary_weight: float = 1.0
    """Weight of the auxiliary head's MSE (decimetres squared) relative to the motion's MSE."""
    chunk_discount: float = 0.5
    """Weight of an action of the chunk relative to the one before it. Later actions depend on noise that no policy can
    foresee. With equal weights, they dominate the first action, the one that is executed."""
    history_dropout: float = 0.5
    """Share of training windows whose history is replaced by the present frame. In the demonstrations, ten frames
    without motion occur only while the cube is held. A policy that reads its own standstill as "hold" never moves again
    (the copycat problem, de Haan et al. 2019)."""
    dropout: float = 0.1
    """Dropout probability in the action decoder."""
    checkpoint_every: int = 10
    """Epochs between the checkpoints that are kept."""
    rollout_every: int = 20
    """Epochs between closed-loop validations."""

    def __post_init__(self) -> None:
        for name in (
            "observation_horizon",
            "epochs",
            "batch_windows",
            "windows_per_segment",
            "stride",
            "hold_stride",
            "checkpoint_every",
            "rollout_every",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        for name in ("history_dropout", "dropout", "chunk_discount", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("weight_decay", "max_gradient_norm", "gripper_weight", "auxiliary_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if self.gripper_loss not in ("cross-entropy", "mse"):
            raise UserError(f"gripper_loss must be cross-entropy or mse, got {self.gripper_loss}")
        if not 0 < self.min_learning_rate <= self.learning_rate:
            raise UserError(
                f"--learning-rate must be at least the minimum {self.min_learning_rate}, got {self.learning_rate}"
            )

    @property
    def batch_segments(self) -> int:
        """Segments in a batch."""
        return max(1, self.batch_windows // self.windows_per_segment)

    def learning_rate_at(self, step: int, total_steps: int, restarts: int = 0) -> float:
        """Learning rate of a step: cosine annealing (sec. 4.4.1), times a linear warm-up.

        With `restarts`, the cosine runs that many times more, each run shorter.
        """
        cycle = math.ceil(total_steps / (restarts + 1))
        cosine = math.cos(math.pi * (step % cycle) / cycle)
        warmup = min(1.0, (step + 1) / max(1.0, self.warmup_fraction * total_steps))
        low, high = self.min_learning_rate, self.learning_rate
        return warmup * (low + (high - low) * (1 + cosine) / 2)

    def with_changes(self, changes: Sequence[str], **options: Any) -> Recipe:
        """This recipe with other settings: `name=value` texts from --set, and values of options of their own.

        Raises:
            UserError: a name is unknown, or a value is of another type.
        """
        kinds = {key: type(value) for key, value in vars(self).items() if isinstance(value, (int, float, str))}
        parsed = dict(options)
        for change in changes:
            name, _, text = change.partition("=")
            try:
                parsed[name] = kinds[name](text)
            except (KeyError, ValueError):
                known = ", ".join(kinds)
                raise UserError(f"--set {change}: give name=value with one of the recipe's: {known}") from None
        return dataclasses.replace(self, **parsed)


RECIPES: dict[RecipeName, Recipe] = {
    "full": Recipe(),
    # The image is the table's middle at the camera's own resolution: as sharp as 224 px of the whole picture, at a
    # third of the cost. A batch holds single frames from all episodes instead of ten neighbouring ones: a CPU can
    # encode few frames, and frames from different places teach more. A policy without a history also has no standstill
    # to copy. Vision starts from scratch, as in all published results.
    "cpu": Recipe(
        image=ImageSpec(size_px=128, crop_top=20 / 224, crop_left=48 / 224, crop_size=128 / 224),
        vision_weights=NO_WEIGHTS,
        observation_horizon=1,
        epochs=5,
        batch_windows=32,
        windows_per_segment=1,
        stride=1,
        learning_rate=1e-3,
        warmup_fraction=0.05,
        history_dropout=0.0,
        checkpoint_every=5,
        rollout_every=5,
    ),
}
# The region of interest is where cubes and fingers are, in eight times the area of Lift's. At 96 px a step costs little
# more than half of one at 128 px, and in the same time the policy learns more. Every second picture of a demonstration
# is enough: its neighbours show the same table, and the stills (`--stills`) show others.
RECIPES["language"] = dataclasses.replace(
    RECIPES["cpu"],
    image=ImageSpec(size_px=96, crop_top=46 / 224, crop_left=56 / 224, crop_size=112 / 224),
    stride=2,
)

# Where the cube of Lift can be, and the fingers near it, at the camera's own resolution: half of the price of 128 px.
# Where the hand is when it is not to be seen there, the policy has to know (`--proprioception`). So short a training
# does not learn its demonstrations by heart: dropout would only cost time. A third of an episode's steps hold the cube
# up, which is learned from fewer.
RECIPES["fast"] = dataclasses.replace(
    RECIPES["cpu"],
    image=ImageSpec(size_px=80, crop_top=66 / 224, crop_left=72 / 224, crop_size=80 / 224),
    epochs=7,
    hold_stride=4,
    dropout=0.0,
    checkpoint_every=7,
    rollout_every=7,
)

LANGUAGE: dict[RecipeName, LanguageSettings] = {
    "full": LanguageSettings(),
    "cpu": LanguageSettings(),
    "fast": LanguageSettings(),
    "language": LanguageSettings(text_encoder="minilm", language_in_vision="film", locates="both", wordings=64),
}
"""How each recipe deals with the instruction."""
