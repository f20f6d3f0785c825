"""Train the policy by behavioural cloning (report sec. 4).

Reads the HDF5 file of demonstrations. Writes `best_model.pth`, `last.pth` and periodic checkpoints, the
training history (JSON, PNG) and TensorBoard logs. Stopped half-way, `--resume` continues exactly: every epoch
starts from a seed of its own, so nothing else needs remembering.

    python 4_train.py --recipe cpu
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vla import stages
from vla.demos.schema import attribute_text, open_demos
from vla.errors import UserError, run_script
from vla.files import sha256
from vla.policies.checkpoint import build_model, export_policy, load_checkpoint, load_parent, save_checkpoint
from vla.policies.devices import choose_device, uses_bfloat16
from vla.policies.instructions import INSTRUCTIONS
from vla.policies.preprocess import prepare_augmented, prepare_regions
from vla.policies.text_encoder import InstructionEmbeddings, TextEncoder
from vla.policies.weights import describe, load_vision_weights
from vla.sim.config import EnvConfig, installed_versions, warn_of_version_drift
from vla.training.log import TrainingLog
from vla.training.recipes import RECIPES, Recipe
from vla.training.rollout_validation import RolloutValidation


@dataclass(frozen=True)
class TrainOptions:
    """Options of the training. An option without a value of its own takes the recipe's (vla/training/recipes.py)."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    output_dir: Path = Path("checkpoints")
    """Folder of the checkpoints, history.json and training_curves.png."""
    log_dir: Path | None = None
    """Folder of the TensorBoard logs; without one, runs/ and the last name in OUTPUT_DIR."""
    exclude: Path | None = None
    """Text file with the names of demonstrations to leave out, one to a line."""
    recipe: Literal["cpu", "full"] = "cpu"
    """cpu: what a laptop can afford, and what every result here was measured with; full: the report's Table 3 at
    224 px, for a GPU, not yet measured."""
    epochs: int | None = None
    """Passes over the data."""
    set: tuple[str, ...] = ()
    """Other numbers of the recipe to change, such as auxiliary_weight=0.5 history_dropout=0."""
    num_demos: int | None = None
    """Training demonstrations to use, the first ones; without a number, all."""
    max_steps: int | None = None
    """Optimiser steps after which an epoch ends early; for trying things out."""
    batch_windows: int | None = None
    """Windows (the report's "sequences") in a batch."""
    learning_rate: float | None = None
    """Initial learning rate."""
    rollout_every: int | None = None
    """Epochs between closed-loop validations."""
    rollout_episodes: int = 10
    """Episodes of a closed-loop validation, on seeds that no test uses; 0: none."""
    rollout_steps: int = 120
    """Control steps of a validation episode at most."""
    restarts: int = 0
    """Warm restarts of the cosine schedule."""
    pooling: Literal["average", "keypoints"] = "keypoints"
    """average: ResNet18's own, the report's; keypoints: with the positions of a spatial softmax."""
    proprioception: bool = False
    """Tell the policy where its hand is and how wide it is open; the report's sees one camera alone."""
    init: Path | None = None
    """Checkpoint to train on from, such as the policy that --dagger rolled out; it brings its own text embeddings. Not
    needed to --resume."""
    vision_weights: str = "IMAGENET1K_V1"
    """ResNet18's initial weights: torchvision tag, local file, or 'none'."""
    clip_weights: str = "openai"
    """Text tower's weights: open_clip tag, local file, or 'none'."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 autocast where the hardware multiplies it natively."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""
    resume: bool = False
    """Continue from OUTPUT_DIR/last.pth where there is one."""
    export: Path | None = None
    """Write the best policy to this file as well, in half precision, for sharing; with --resume, of a finished run."""
    overwrite: bool = False
    """Start anew although OUTPUT_DIR holds a run."""

    def __post_init__(self) -> None:
        for name, least in (
            ("rollout_episodes", 0),
            ("rollout_steps", 1),
            ("restarts", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(self, name)}")
        for name in ("max_steps", "num_demos"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.init is not None and not self.init.is_file():
            raise UserError(f"--init {self.init}: no such checkpoint; train one with: python 4_train.py")
        beside = self.init is not None and self.init.resolve().parent == self.output_dir.resolve()
        if self.init is not None and beside and any(map(self.init.match, ("best_model.pth", "last.pth", "epoch_*"))):
            raise UserError(
                f"--init {self.init} would be replaced by this training; give another --output-dir, or a copy of it"
            )
        if self.resume and self.overwrite:
            raise UserError("--resume and --overwrite contradict each other; give one")
        choose_device(self.device)

    def resolve(self) -> Recipe:
        """The recipe with this command line's changes."""
        changes = {
            key: getattr(self, key)
            for key in ("epochs", "batch_windows", "learning_rate", "rollout_every")
            if getattr(self, key) is not None
        }
        return RECIPES[self.recipe].with_changes(self.set, **changes)


def main(options: TrainOptions) -> None:
    recipe = options.resolve()
    _refuse_to_clobber(options)
    trainer = Trainer(options, recipe)
    if options.resume and trainer.last_path.exists():
        trainer.restore()
    else:
        trainer.initialise()
        if options.overwrite:  # --resume must not go on with the run that this one replaces
            for old in (trainer.last_path, *options.output_dir.glob("epoch_*.pth")):
                old.unlink(missing_ok=True)
    try:
        for epoch in range(trainer.epochs_done, recipe.epochs):
            trainer.run_epoch(epoch)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"step {trainer.step + 1}: the GPU's memory is full ({str(error).splitlines()[0]}); "
            "start anew with a smaller --batch-windows and --overwrite, or with --device cpu"
        ) from None
    trainer.close()
    best = load_checkpoint(trainer.best_path)["training"]
    if options.export is not None:
        export_policy(trainer.best_path, options.export)
        print(f"exported: {options.export} ({options.export.stat().st_size / 1e6:.0f} MB)")
    print(f"best: epoch {best['epoch']}, {best['score_text']} -> {trainer.best_path}")


_IDENTITY = ("seed", "restarts", "rollout_episodes", "rollout_steps", "vision_weights", "clip_weights")
"""Options that a resumed run must share; the rest of its identity is the recipe, the network and the data."""


def _refuse_to_clobber(options: TrainOptions) -> None:
    last = options.output_dir / "last.pth"
    if last.exists() and not (options.resume or options.overwrite):
        training = load_checkpoint(last)["training"]
        raise UserError(
            f"{last} holds a run ({training['epoch']} of {training['identity']['recipe']['epochs']} epochs); "
            "continue it with --resume, or start anew with --overwrite"
        )


class Trainer:
    """One training run: its data, network, optimiser and files."""

    def __init__(self, options: TrainOptions, recipe: Recipe) -> None:
        self.options, self.recipe = options, recipe
        self.device = choose_device(options.device)
        self.autocast = uses_bfloat16(options.precision, self.device)
        self.best_path, self.last_path = options.output_dir / "best_model.pth", options.output_dir / "last.pth"
        self.architecture = stages.model_architecture()
        self.order = torch.Generator()
        self._load_data()
        # One folder for each run: two in one would hide each other's curves.
        self.log_dir = options.log_dir or Path("runs", options.output_dir.resolve().name)
        for folder in (options.output_dir, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.rollouts: RolloutValidation | None = None
        if options.rollout_episodes:
            env, video = EnvConfig.from_env_args(self.env_args), options.output_dir / "rollout.mp4"
            self.rollouts = RolloutValidation(env, options.rollout_episodes, options.rollout_steps, video)
        self.step = 0
        self.epochs_done = 0
        self.best_score: tuple[float, float] = (-1.0, -math.inf)

    def _load_data(self) -> None:
        options, recipe = self.options, self.recipe
        selected_names = stages.dataset_loader().selected_names
        with open_demos(options.data) as file:
            warn_of_version_drift(file["data"].attrs["env_args"], str(options.data))
            self.env_args = str(file["data"].attrs["env_args"])
            spoken = {attribute_text(demo.attrs["language_instruction"]) for demo in file["data"].values()}
            names = {split: selected_names(file, split, options.exclude) for split in ("train", "valid")}
        if options.num_demos is not None and options.num_demos > len(names["train"]):
            raise UserError(
                f"--num-demos {options.num_demos}: {options.data} has {len(names['train'])} for training; "
                "give fewer, or collect more with: python 1_collect_demos.py --overwrite --num-episodes N"
            )
        names["train"] = names["train"][: options.num_demos]
        self.instructions = sorted(spoken.union(INSTRUCTIONS))
        config = self.architecture.ModelConfig(
            image=recipe.image,
            pooling=options.pooling,
            proprioception=options.proprioception,
            observation_horizon=recipe.observation_horizon,
        )
        self.model_config = config
        self.parent = None if options.init is None else load_parent(options.init, config)
        picture_px = EnvConfig.from_env_args(self.env_args).image_size_px
        self.margin_px = recipe.augmentation.margin_px(picture_px)

        self.train_loader = self._loader("train", names["train"])
        self.valid_loader = self._loader("valid", names["valid"]) if names["valid"] else None
        per_epoch = len(self.train_loader)
        self.steps_per_epoch = min(per_epoch, options.max_steps or per_epoch)
        self.total_steps = self.steps_per_epoch * recipe.epochs
        self.identity = {
            "recipe": dataclasses.asdict(recipe),
            "model": config.to_dict(),
            "data_sha256": sha256(options.data),
            "episodes": names,
            "steps_per_epoch": self.steps_per_epoch,
            "bfloat16": self.autocast,
            "init_sha256": None if options.init is None else sha256(options.init),
        } | {name: getattr(options, name) for name in _IDENTITY}

    def _loader(self, split: str, names: list[str]) -> Any:
        loader, recipe = stages.dataset_loader(), self.recipe
        dataset = loader.LiftDataset(
            self.options.data,
            names,
            recipe.stride,
            recipe.windows_per_segment,
            recipe.observation_horizon,
            self.model_config.chunk_size,
            recipe.image,
            self.margin_px,
        )
        print(
            f"{split}: {len(names)} episodes, {dataset.window_count()} windows, "
            f"{dataset.megabytes():.0f} MB of frames in memory"
        )
        order = self.order if split == "train" else None
        on_gpu = self.device.type == "cuda"
        return loader.make_loader(dataset, recipe.batch_windows, recipe.windows_per_segment, order, on_gpu)

    def initialise(self) -> None:
        """Fresh weights, or those of `--init`."""
        torch.manual_seed(self.options.seed)
        if self.options.init is not None and self.parent is not None:
            self.model = build_model(self.parent, self.options.init)
            self.vision_identity, self.text_identity = self.parent["vision_identity"], self.parent["text_identity"]
            self.language = self.parent["language"]
            self._prepare([])
            return
        self.model = self.architecture.VLA(self.model_config)
        self.vision_identity = load_vision_weights(self.model.vision, self.options.vision_weights)
        encoder = TextEncoder.load(self.options.clip_weights)
        embeddings = encoder(self.instructions)
        self.text_identity = encoder.identity
        self.language = {"texts": self.instructions, "embeddings": embeddings}
        self.model.fit_language(embeddings)
        self._prepare([])

    def restore(self) -> None:
        """The state at the end of the last finished epoch.

        Raises:
            UserError: the run that stands there had other options or other data.
        """
        stored = load_checkpoint(self.last_path)
        training = stored["training"]
        if "optimizer" not in stored:
            raise UserError(
                f"{self.last_path} holds a policy without its optimiser, such as best_model.pth; "
                "put the run's own last.pth back, or start anew with --overwrite"
            )
        if self.options.init is None:  # a run that goes on need not be told again what it grew from
            self.identity["init_sha256"] = training["identity"].get("init_sha256")
        if training["epoch"] == self.recipe.epochs:  # a finished run reads no more data, which may have grown since
            for what in ("data_sha256", "episodes", "steps_per_epoch"):
                self.identity[what] = training["identity"][what]
        for what, here in self.identity.items():
            if training["identity"].get(what) != here:
                raise UserError(
                    f"{self.last_path} was trained with another {what} ({training['identity'].get(what)}, now {here}); "
                    "give the same options as then, or start anew with --overwrite"
                )
        self.model = build_model(stored, self.last_path)
        self.vision_identity, self.text_identity = stored["vision_identity"], stored["text_identity"]
        self.language = stored["language"]
        self.step, self.epochs_done = training["step"], training["epoch"]
        self._prepare(training["history"])
        self.optimiser.load_state_dict(stored["optimizer"])
        self.best_score = tuple(training["best_score"])
        print(f"resuming after epoch {self.epochs_done} of {self.recipe.epochs}")

    def _prepare(self, history: list[dict[str, Any]]) -> None:
        self.log = TrainingLog(self.log_dir, self.options.output_dir, self.total_steps, history)
        self.model.to(self.device).to(memory_format=torch.channels_last)
        self.embeddings = InstructionEmbeddings(
            dict(zip(self.language["texts"], self.language["embeddings"], strict=True)),
            self.text_identity,
            self.options.clip_weights,
        )
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay, fused=True
        )
        print(
            f"device {self.device}, {'bfloat16' if self.autocast else 'float32'} | "
            f"vision {describe(self.vision_identity)} | text {describe(self.text_identity)}"
        )

    def run_epoch(self, epoch: int) -> None:
        """Train, validate, roll out where it is due, and write the checkpoints."""
        start = time.perf_counter()
        self.log.begin_epoch(self.step)
        seed = self.options.seed * 1_000_003 + epoch
        self.order.manual_seed(seed)
        batches = iter(self.train_loader)  # draws a number for itself: seed after it
        torch.manual_seed(seed)  # history dropout and dropout
        augmentation = torch.Generator().manual_seed(seed)
        self.model.train()
        sums: dict[str, float] = {}
        for index, batch in enumerate(batches):
            if index == self.steps_per_epoch:
                break
            losses = self._train_step(batch, augmentation)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
        record: dict[str, Any] = {"epoch": epoch + 1, "step": self.step, "learning_rate": self.learning_rate}
        record |= {f"train/{name}": value / self.steps_per_epoch for name, value in sums.items()}
        record |= self._validate()
        self.epochs_done = epoch + 1
        last = self.epochs_done == self.recipe.epochs
        if self.rollouts is not None and (last or self.epochs_done % self.recipe.rollout_every == 0):
            record |= self.rollouts.run(self.model.eval(), self.embeddings, self.device)
            if self.rollouts.video.exists():
                self.log.video("rollout", self.rollouts.video, self.step)
        record["seconds"] = time.perf_counter() - start
        self.log.epoch(record, self.recipe.epochs)
        self._save(record)

    def _train_step(self, batch: Any, augmentation: torch.Generator) -> dict[str, float]:
        self.learning_rate = self.recipe.learning_rate_at(self.step, self.total_steps, self.options.restarts)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        images = prepare_augmented(
            batch.frames.to(self.device, non_blocking=True),
            batch.segments.to(self.device),
            self.recipe.image,
            self.recipe.augmentation,
            self.margin_px,
            augmentation,
        )
        dropped = torch.rand(len(batch.windows)) < self.recipe.history_dropout
        present = batch.windows[:, -1:].expand_as(batch.windows)
        batch = batch._replace(windows=torch.where(dropped[:, None], present, batch.windows))
        losses = self._losses(batch, images)
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_gradient_norm))
        values = {name: float(value.detach()) for name, value in losses._asdict().items()} | {"gradient_norm": norm}
        self.step += 1
        if not (math.isfinite(values["total"]) and math.isfinite(norm)):  # before the weights take it on
            raise UserError(
                f"step {self.step}: the loss became {values['total']}, its gradient's norm {norm}; "
                "start anew with a smaller --learning-rate and --overwrite"
            )
        self.optimiser.step()
        self.log.step(self.step, self.learning_rate, values)
        return values

    def _losses(self, batch: Any, images: Tensor) -> Any:
        language = torch.stack([self.embeddings[text] for text in batch.instructions]).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            prediction, auxiliary = self.model(
                images, batch.windows.to(self.device), language, batch.proprioception.to(self.device)
            )
        prediction = type(prediction)(*(part.float() for part in prediction))
        return self.architecture.compute_losses(
            prediction,
            batch.actions.to(self.device),
            batch.mask.to(self.device),
            auxiliary.float(),
            batch.positions.to(self.device),
            self.recipe.gripper_weight,
            self.recipe.auxiliary_weight,
            self.recipe.chunk_discount,
            self.recipe.gripper_loss,
        )

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Losses on the validation episodes, as the policy will run: no augmentation, no dropout."""
        if self.valid_loader is None:
            return {}
        self.model.eval()
        sums: dict[str, float] = {}
        batches = 0
        for batch in self.valid_loader:
            images = prepare_regions(batch.frames.to(self.device), self.recipe.image, self.margin_px)
            losses = self._losses(batch, images)
            for name, value in losses._asdict().items():
                sums[name] = sums.get(name, 0.0) + float(value)
            batches += 1
        means = {f"valid/{name}": value / batches for name, value in sums.items()}
        # MSE over 3 position components and the opening, in decimetres: an error in centimetres.
        means["valid/position_error_cm"] = 10 * math.sqrt(means["valid/position"])
        return means

    def _save(self, record: dict[str, Any]) -> None:
        """`last.pth` always; `best_model.pth` by true success, then by validation loss; a periodic one."""
        # Success is known only where rollouts ran; an epoch without them competes once none has succeeded.
        score = (record.get("rollout/success", 0.0), -record.get("valid/total", record["train/total"]))
        is_best = score > self.best_score
        self.best_score = max(score, self.best_score)
        text = f"validation loss {-score[1]:.4f}"
        if "rollout/success" in record:
            text = f"true success {score[0]:.0%} of {self.options.rollout_episodes} validation episodes, {text}"
        policy = {
            "model_config": self.model_config.to_dict(),
            "model": {name: value.cpu() for name, value in self.model.state_dict().items()},
            "vision_identity": self.vision_identity,
            "text_identity": self.text_identity,
            "language": self.language,
            "env_args": self.env_args,
            "versions": {**installed_versions(), "torch": str(torch.__version__)},
            "training": {
                "identity": self.identity,
                "epoch": self.epochs_done,
                "step": self.step,
                "history": self.log.history,
                "best_score": list(self.best_score),
                "score_text": text,
            },
        }
        if is_best:
            save_checkpoint(self.best_path, policy)
        if self.epochs_done % self.recipe.checkpoint_every == 0:
            save_checkpoint(self.options.output_dir / f"epoch_{self.epochs_done:03d}.pth", policy)
        save_checkpoint(self.last_path, {**policy, "optimizer": self.optimiser.state_dict()})

    def close(self) -> None:
        """Release the logs and the simulator."""
        self.log.close()
        if self.rollouts is not None:
            self.rollouts.close()


if __name__ == "__main__":
    run_script(main, TrainOptions, __doc__, "continue after the last finished epoch with the same command and --resume")
