"""Options of the training script (4_train.py)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vla.demos.schema import DEMO_FILES
from vla.errors import UserError
from vla.files import SHIPPED
from vla.policies.checkpoint import load_checkpoint
from vla.policies.devices import choose_device
from vla.policies.hub_upload import check_can_push
from vla.policies.network import LanguageInVision, Locates
from vla.policies.text_encoder import EncoderName
from vla.sim.config import VALIDATION_SEEDS
from vla.training.recipes import LANGUAGE, RECIPES, LanguageSettings, Recipe, RecipeName

_RUN_CHECKPOINT = re.compile(r"(last|best_model|epoch_\d+)\.pth")


def is_run_checkpoint(path: Path) -> bool:
    """Whether a file is named like a checkpoint that training writes into its OUTPUT_DIR."""
    return _RUN_CHECKPOINT.fullmatch(path.name) is not None


@dataclass(frozen=True)
class TrainOptions:
    """Options of the training. An option without a default value takes the recipe's (vla/training/recipes.py)."""

    data: Path | None = None
    """HDF5 file of demonstrations; by default data/lift_demos.hdf5, for the recipe language data/cubes_demos.hdf5."""
    output_dir: Path = Path("checkpoints")
    """Folder of the checkpoints, history.json and training_curves.png."""
    log_dir: Path | None = None
    """Folder of the TensorBoard logs; by default the folder in runs/ that is named like OUTPUT_DIR."""
    exclude: Path | None = None
    """Text file with the names of demonstrations to leave out, one to a line."""
    recipe: RecipeName = "cpu"
    """cpu: what a laptop can afford with one camera alone, and what the shipped policy was trained with; fast: half of
    its steps at 80 px, with --proprioception, for `make demo`; full: the report's Table 3 at 224 px, for a GPU, not yet
    measured; language: for the scene cubes."""
    epochs: int | None = None
    """Passes over the data."""
    set: tuple[str, ...] = ()
    """Other settings of the recipe to change, such as auxiliary_weight=0.5 history_dropout=0."""
    num_demos: int | None = None
    """Number of training demonstrations to use, the first ones of the file; by default all."""
    max_steps: int | None = None
    """Optimiser steps after which an epoch ends early; for trying things out."""
    batch_windows: int | None = None
    """Windows (the report's "sequences") in a batch."""
    learning_rate: float | None = None
    """Initial learning rate."""
    rollout_every: int | None = None
    """Epochs between closed-loop validations."""
    rollout_episodes: int = 10
    """Episodes of a closed-loop validation, on seeds that no test uses; 0 turns it off."""
    rollout_steps: int = 120
    """Control steps after which a validation episode has failed."""
    restarts: int = 0
    """Warm restarts of the cosine schedule."""
    pooling: Literal["average", "keypoints"] = "keypoints"
    """average: ResNet18's own, the report's; keypoints: adds the positions of a spatial softmax."""
    proprioception: bool = False
    """Also give the policy the position and opening of its gripper; the report's policy sees one camera alone."""
    text_encoder: EncoderName | None = None
    """clip: CLIP's text tower, the report's; minilm: the sentence encoder all-MiniLM-L6-v2, which needs
    requirements-language.txt; deaf: every sentence is the same, for a twin that has no language. By default the
    recipe's."""
    language_in_vision: LanguageInVision | None = None
    """What the instruction does before the fusion: nothing; scale and shift ResNet18's channels (film); add what it
    attends to in the picture (attention); both. By default the recipe's."""
    locates: Locates | None = None
    """The cubes whose positions the auxiliary heads learn: the target's (target) or those of every cube that an
    instruction can name (every), both from the picture alone; or the target's, behind the fusion (named); or the last
    two (both). By default the recipe's."""
    stills: Path | None = None
    """HDF5 file of stills (1_collect_demos.py --stills) to train on, too."""
    wordings: int | None = None
    """Wordings of each meaning among which training draws anew for each window; 0: the sentences of the demonstrations
    alone. By default the recipe's."""
    init: Path | None = None
    """Checkpoint whose weights and text embeddings training begins with, such as the policy that --dagger rolled out.
    It need not be repeated with --resume once an epoch has finished."""
    vision_weights: str | None = None
    """ResNet18's initial weights: torchvision tag, local file, or 'none'. By default the recipe's: none (from scratch)
    for cpu, IMAGENET1K_V1 for full."""
    clip_weights: str = "openai"
    """Text encoder's weights: open_clip tag, local file, or 'none'."""
    frame_memory_gb: float | None = None
    """Memory for the decoded frames, in GB; where they need more, a temporary file in OUTPUT_DIR holds them. By default
    half of what is free, on the GPU and in the machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto takes a CUDA GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast if the hardware multiplies it natively."""
    seed: int = 0
    """Seed of the initial weights, the order of the batches, the augmentation and the dropout."""
    resume: bool = False
    """Continue the run in OUTPUT_DIR, if there is one, with the same options and data."""
    export: Path | None = None
    """Also write the best policy to this file, in half precision, for sharing. With --resume, of a finished run too,
    whose file of demonstrations may have grown since (--dagger). Of existing files, only a checkpoint of this project
    is replaced, and neither one of OUTPUT_DIR's own nor the shipped one."""
    push_to_hub: str | None = None
    """Also upload the file of --export, with a model card, to this model of yours on the Hugging Face Hub, such as
    USER/NAME."""
    overwrite: bool = False
    """Start anew even if OUTPUT_DIR holds a run, whose checkpoints are removed."""

    def __post_init__(self) -> None:
        for name, least in (
            ("rollout_episodes", 0),
            ("rollout_steps", 1),
            ("restarts", 0),
            ("seed", 0),
            ("max_steps", 1),
            ("num_demos", 1),
            ("frame_memory_gb", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
        if self.rollout_episodes > len(VALIDATION_SEEDS):
            raise UserError(
                f"--rollout-episodes must be at most {len(VALIDATION_SEEDS)}, the number of validation seeds, "
                f"got {self.rollout_episodes}"
            )
        if self.init is not None:
            self._check_init(self.init)
        if self.export is not None:
            self._check_export(self.export)
        if self.push_to_hub is not None:
            if self.export is None:
                raise UserError("--push-to-hub uploads the file of --export; give --export FILE, too")
            check_can_push(self.push_to_hub)
        if self.recipe == "fast" and not self.proprioception:
            raise UserError(
                "--recipe fast sees the middle of the table alone, where the hand is only at the end; "
                "add --proprioception, or take --recipe cpu"
            )
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite contradict each other; give one")
        if self.language().wordings == 0 and self.stills is not None:
            raise UserError("--stills needs words to ask for a cube in a still; give --wordings too")
        choose_device(self.device)

    def _check_init(self, init: Path) -> None:
        if not init.is_file():
            raise UserError(f"--init {init}: no such checkpoint; train one with: python 4_train.py")
        if self._is_own_checkpoint(init):
            raise UserError(
                f"--init {init} would be replaced by this training; give another --output-dir, or a copy of it"
            )

    def _check_export(self, export: Path) -> None:
        if export.is_dir():
            raise UserError(f"--export {export} is a folder; name a file in it")
        if self._is_own_checkpoint(export):
            raise UserError(f"--export {export} is a checkpoint of the training itself; name another file")
        if not export.exists():
            return
        if export.resolve() == SHIPPED.resolve():
            raise UserError(f"--export {export} is the shipped policy, which is never replaced; name another file")
        try:
            load_checkpoint(export)
        except UserError:
            raise UserError(
                f"--export {export} exists and is not a checkpoint of this project, so it is not replaced; "
                "name another file"
            ) from None

    def _is_own_checkpoint(self, path: Path) -> bool:
        """Whether this training writes or removes `path` as one of its checkpoints."""
        path = path.resolve()
        return is_run_checkpoint(path) and path.parent == self.output_dir.resolve()

    @property
    def file(self) -> Path:
        """The HDF5 file of demonstrations."""
        return self.data or DEMO_FILES["cubes" if self.recipe == "language" else "lift"]

    def language(self) -> LanguageSettings:
        """The recipe's way with the instruction, with the changes of this command line."""
        names = [field.name for field in dataclasses.fields(LanguageSettings)]
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(LANGUAGE[self.recipe], **changes)

    def resolve(self) -> Recipe:
        """The recipe with the changes of this command line."""
        names = ("epochs", "batch_windows", "learning_rate", "rollout_every", "vision_weights")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return RECIPES[self.recipe].with_changes(self.set, **changes)
