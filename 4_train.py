"""Train the policy by behavioural cloning (report sec. 4).

Reads the HDF5 file of demonstrations. Writes `best_model.pth`, `last.pth` and periodic checkpoints, the training
history (JSON, PNG) and TensorBoard logs. `--resume` continues an interrupted run after its last finished epoch. Every
epoch starts from a seed of its own, so that on a CPU the resumed run ends in the same weights, to the bit. Under
`torchrun`, several processes share each batch, on one machine or on several (docs/training.md).

    python 4_train.py --recipe cpu
    python 4_train.py --recipe language --output-dir checkpoints/language
    torchrun --nproc-per-node 2 4_train.py --recipe cpu
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from vla import stages
from vla.demos.frames import Frames, FramesOnGpu, make_frames
from vla.demos.stills import stills_facts
from vla.errors import UserError, run_script
from vla.files import run_lock
from vla.policies.asking import Asker
from vla.policies.batch import Batch, Segment
from vla.policies.checkpoint import export_policy, load_checkpoint, save_checkpoint
from vla.policies.devices import choose_device, mixed_precision, stop_on_machine_fault
from vla.policies.hub_upload import push_policy
from vla.policies.network import Losses, TrainableNetwork, model_architecture
from vla.policies.preprocess import cut_shape, prepare_augmented, prepare_regions
from vla.policies.text_encoder import TEXT_DIMS, InstructionEmbeddings
from vla.policies.weights import describe
from vla.sim.config import EnvConfig
from vla.training.demonstrations import Demonstrations
from vla.training.distributed import Processes, end_together, join
from vla.training.log import TrainingLog
from vla.training.loss_meter import LossMeter
from vla.training.options import TrainOptions, is_run_checkpoint
from vla.training.recipes import Recipe
from vla.training.rollout_validation import RolloutValidation
from vla.training.run_identity import RunIdentity
from vla.training.run_state import RunState, start_run
from vla.training.still_dataset import StillDataset

TO_CONTINUE = "continue after the last finished epoch with the same command, with --resume and without --overwrite"
AFTER_A_FAULT = (
    f"{TO_CONTINUE} (add --device cpu if the GPU is too small), or start anew with a smaller --batch-windows and "
    "another --output-dir (--overwrite gives up this run)"
)


def main(options: TrainOptions) -> None:
    with stop_on_machine_fault(AFTER_A_FAULT), join(options.device) as processes:
        _main(options, processes)


def _main(options: TrainOptions, processes: Processes) -> None:
    recipe = options.resolve()
    processes.check_batch(recipe)
    language = options.language()
    demonstrations = Demonstrations.select(options.file, options.exclude, options.num_demos)
    if demonstrations.source is not None:
        print(
            f"{options.file}: imported ({demonstrations.source}), unjudged; nothing says where the cube is: the "
            "auxiliary loss is off (auxiliary_weight 0)"
        )
        recipe = dataclasses.replace(recipe, auxiliary_weight=0.0)
    config = model_architecture().ModelConfig(
        image=recipe.image,
        pooling=options.pooling,
        proprioception=options.proprioception,
        observation_horizon=recipe.observation_horizon,
        located_cubes=language.located_cubes,
        locates_named=language.locates_named,
        language_in_vision=language.language_in_vision,
        text_dim=TEXT_DIMS[language.text_encoder],
        dropout=recipe.dropout,
    )
    identity = RunIdentity.of(options, recipe, config, demonstrations)
    identity.check_same(processes.from_first(lambda: identity))
    best = options.output_dir / "best_model.pth"
    with run_lock(options.output_dir) if processes.is_first else contextlib.nullcontext():
        identity, state = processes.from_first(lambda: start_run(options, recipe, config, demonstrations, identity))
        if state is not None:
            Trainer(options, recipe, demonstrations, identity, state, processes).run()
        if not processes.is_first:
            return
        training = load_checkpoint(best)["training"]
        if options.export is not None:
            export_policy(best, options.export)
            print(f"exported: {options.export} ({options.export.stat().st_size / 1e6:.0f} MB)")
            if options.push_to_hub is not None:
                print(f"uploaded: {push_policy(options.export, options.push_to_hub)}")
        print(f"best: epoch {training['epoch']}, {training['score_text']} -> {best}")


class Trainer:
    """One training run: its batches, network, optimiser and records."""

    def __init__(
        self,
        options: TrainOptions,
        recipe: Recipe,
        demonstrations: Demonstrations,
        identity: RunIdentity,
        state: RunState,
        processes: Processes,
    ) -> None:
        self.options, self.recipe, self.identity, self.state = options, recipe, identity, state
        self.processes = processes
        self.language = options.language()
        self.has_positions = demonstrations.source is None
        self.env_args = demonstrations.env_args
        env = EnvConfig.from_env_args(self.env_args)
        self.rollouts: RolloutValidation | None = None
        if options.rollout_episodes and processes.is_first:
            video = options.output_dir / "rollout.mp4"
            self.rollouts = RolloutValidation(env, options.rollout_episodes, options.rollout_steps, video)

        self.device = choose_device(options.device)
        self.margin_px = recipe.augmentation.margin_px(env.image_size_px)
        self.order = torch.Generator()
        self.asker = Asker(state.language["texts"]) if self.language.wordings else None
        self.frames = self._make_frames(demonstrations)
        self.train_batches = self._batches(self._training_data(demonstrations), self.order)
        has_valid = bool(demonstrations.names["valid"])
        self.valid_batches = self._batches(self._windows(demonstrations, "valid", None), None) if has_valid else None
        print(f"{len(self.frames):,} frames, {self.frames.nbytes / 1e6:,.0f} MB, {self.frames.where}")
        self.steps_per_epoch = min(len(self.train_batches), options.max_steps or len(self.train_batches))
        self.total_steps = self.steps_per_epoch * recipe.epochs

        self.network = state.network
        self.network.to(self.device)
        for parameter in self.network.parameters():
            if parameter.dim() == 4:  # a convolution's weights, laid out in memory as the images are
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
        embeddings = dict(zip(state.language["texts"], state.language["embeddings"], strict=True))
        self.embeddings = InstructionEmbeddings(embeddings, state.text_identity, options.clip_weights)
        self.learning_rate = recipe.learning_rate
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=self.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        if state.optimiser_state is not None:
            self.optimiser.load_state_dict(state.optimiser_state)

        # Each run has a folder of its own: two runs in one folder would hide each other's curves.
        log_dir = options.log_dir or Path("runs", options.output_dir.resolve().name)
        self.log = TrainingLog(
            log_dir if processes.is_first else None, options.output_dir, state.step, self.total_steps
        )
        print(
            f"device {self.device}, {'bfloat16' if identity.bfloat16 else 'float32'} | "
            f"vision {describe(state.vision_identity)} | text {describe(state.text_identity)}"
        )

    def _make_frames(self, demonstrations: Demonstrations) -> Frames:
        """Make room for the frames of all data, where there is enough of it."""
        stills = self.options.stills
        count = demonstrations.frame_count + (0 if stills is None else stills_facts(stills)[1])
        shape = cut_shape(demonstrations.picture_shape, self.recipe.image, self.margin_px)
        return make_frames(count, shape, self.device, self.options.output_dir, self.options.frame_memory_gb)

    def _training_data(self, demonstrations: Demonstrations) -> Dataset[Segment]:
        """The demonstrations for training, and the stills where there are any."""
        windows = self._windows(demonstrations, "train", self.asker)
        if self.options.stills is None:
            return windows
        assert self.asker is not None  # TrainOptions has checked it
        config = self.state.network.config
        stills = StillDataset(
            self.options.stills,
            demonstrations.env_args,
            self.asker,
            config.observation_horizon,
            config.chunk_size,
            self.recipe.image,
            self.margin_px,
            self.language.locates,
            self.frames,
        )
        print(f"{len(stills)} stills")
        return ConcatDataset([windows, stills])

    def _windows(self, demonstrations: Demonstrations, split: str, asker: Asker | None) -> Dataset[Segment]:
        """Decode the demonstrations of a split (sec. 4.1)."""
        recipe, names = self.recipe, demonstrations.names[split]
        dataset = stages.dataset_loader().LiftDataset(
            demonstrations.path,
            names,
            recipe.stride,
            recipe.windows_per_segment,
            recipe.observation_horizon,
            self.state.network.config.chunk_size,
            recipe.image,
            self.margin_px,
            self.language.locates,
            asker,
            self.frames,
            recipe.hold_stride,
        )
        print(f"{split}: {len(names)} episodes, {dataset.window_count()} windows")
        windows: Dataset[Segment] = dataset
        return windows

    def _batches(self, data: Dataset[Segment], order: torch.Generator | None) -> DataLoader[Batch]:
        """Batches of the recipe's size, in random order for training (sec. 4.5.1)."""
        pin_memory = self.device.type == "cuda" and not isinstance(self.frames, FramesOnGpu)
        batches: DataLoader[Batch] = stages.dataset_loader().make_loader(
            data, self.recipe.batch_segments, order, pin_memory
        )
        return batches

    def run(self) -> None:
        """Train the epochs that are left."""
        if self.options.overwrite and self.processes.is_first:
            # Otherwise --resume could go on with the run that this one replaces.
            for path in self.options.output_dir.iterdir():
                if is_run_checkpoint(path):
                    path.unlink()
        try:
            while self.state.epoch < self.recipe.epochs:
                self._run_epoch()
        finally:
            self.log.close()
            if self.rollouts is not None:
                self.rollouts.close()

    def _run_epoch(self) -> None:
        """Train; the first process also validates and writes the checkpoints (sec. 4.5), while the others wait."""
        start = time.perf_counter()
        losses = self._train()
        self.state.epoch += 1
        if self.processes.is_first:
            self._finish_epoch(losses, start)
        self.processes.wait()

    def _finish_epoch(self, losses: LossMeter, start: float) -> None:
        """Validate, roll out if that is due, and write the records and checkpoints of an epoch begun at `start`."""
        record: dict[str, Any] = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "learning_rate": self.learning_rate,
            **losses.means("train"),
            **self._validate(),
        }
        is_last = self.state.epoch == self.recipe.epochs
        if self.rollouts is not None and (is_last or self.state.epoch % self.recipe.rollout_every == 0):
            self.network.eval()
            record |= self.rollouts.run(self.network, self.embeddings, self.device)
            if self.rollouts.video.exists():
                self.log.video("rollout", self.rollouts.video, self.state.step)
        record["seconds"] = time.perf_counter() - start
        self.state.history.append(record)
        self.log.epoch(self.state.history)
        self._save(record)
        self.log.say_finished(record, self.recipe.epochs)

    def _train(self) -> LossMeter:
        """One pass over the training batches (sec. 4.4)."""
        seed = self.options.seed * 1_000_003 + self.state.epoch
        self.order.manual_seed(seed)
        batches = iter(self.train_batches)  # draws from torch's generator, which is therefore seeded afterwards
        torch.manual_seed(seed)  # for history dropout and dropout
        augmentation = torch.Generator().manual_seed(seed)
        if self.asker is not None:
            self.asker.begin(seed)
        self.network.train()
        network = self.processes.joined(self.network)
        losses = LossMeter()
        self.log.begin_epoch(self.state.step)
        for batch in itertools.islice(batches, self.steps_per_epoch):
            losses.add(self._train_step(network, batch, augmentation))
            if self.log.is_due(self.state.step):
                self._read(losses)
        self._read(losses)  # also before anything is validated or saved
        return losses

    def _train_step(self, network: TrainableNetwork, whole: Batch, augmentation: torch.Generator) -> dict[str, Tensor]:
        """Augment, predict, and step down the gradient of the loss; returns the losses, still on the device."""
        self.learning_rate = self.recipe.learning_rate_at(self.state.step, self.total_steps, self.options.restarts)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        part = self.processes.part_of(self._drop_histories(whole))
        batch = part.batch.to(self.device)
        recipe = self.recipe
        images = prepare_augmented(
            batch.frames,
            batch.segments,
            recipe.image,
            recipe.augmentation,
            self.margin_px,
            augmentation,
            part.others,
        )
        with self.processes.forward(part):
            losses = self._losses(network, batch, images, None if part.is_whole else part.whole)
        self.optimiser.zero_grad(set_to_none=True)
        self.processes.backward(losses.total, part)
        losses = self.processes.add_up(losses, part)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_gradient_norm)
        self.optimiser.step()
        self.state.step += 1
        return {**self._reported(losses), "gradient_norm": norm}

    def _drop_histories(self, batch: Batch) -> Batch:
        """Replace the history of some windows by their present frame (`Recipe.history_dropout`)."""
        is_dropped = torch.rand(len(batch.windows)) < self.recipe.history_dropout
        present = batch.windows[:, -1:].expand_as(batch.windows)
        return batch._replace(windows=torch.where(is_dropped[:, None], present, batch.windows))

    def _losses(self, network: TrainableNetwork, batch: Batch, images: Tensor, whole: Batch | None = None) -> Losses:
        """Losses of a batch on the device (sec. 4.3), or its share of those of the `whole`."""
        language = torch.stack([self.embeddings[text] for text in batch.instructions]).to(self.device)
        with mixed_precision(self.device, self.identity.bfloat16):
            prediction, auxiliary = network(images, batch.windows, language, batch.proprioception)
        return model_architecture().compute_losses(prediction.float(), auxiliary.float(), batch, self.recipe, whole)

    def _reported(self, losses: Losses) -> dict[str, Tensor]:
        """The losses by name; without positions of the cube there is none of the auxiliary head."""
        return {
            name: value
            for name, value in losses._asdict().items()
            if self.has_positions or name not in ("auxiliary", "position")
        }

    def _read(self, losses: LossMeter) -> None:
        """Copy the losses of the last steps from the device, check them, and log the step if that is due.

        Raises:
            UserError: a loss is not finite. The weights are spoilt by then; they are not saved.
        """
        read = losses.read()
        for step, values in enumerate(read, start=self.state.step - len(read) + 1):
            if not (math.isfinite(values["total"]) and math.isfinite(values["gradient_norm"])):
                raise UserError(
                    f"step {step}: the loss became {values['total']}, its gradient's norm {values['gradient_norm']}; "
                    "start anew with a smaller --learning-rate and another --output-dir "
                    "(or give up this run with --overwrite)"
                )
        if read and self.log.is_due(self.state.step):
            self.log.step(self.state.step, self.learning_rate, read[-1])

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean losses on the validation episodes (sec. 4.5.2), without augmentation and dropout, as in control."""
        if self.valid_batches is None:
            return {}
        self.network.eval()
        losses = LossMeter()
        for batch in self.valid_batches:
            batch = batch.to(self.device)
            images = prepare_regions(batch.frames, self.recipe.image, self.margin_px)
            losses.add(self._reported(self._losses(self.network, batch, images)))
        losses.read()
        means = losses.means("valid")
        if self.has_positions:
            # The MSE of three position components and the opening, in decimetres, becomes an error in centimetres.
            means["valid/position_error_cm"] = 10 * math.sqrt(means["valid/position"])
        return means

    def _save(self, record: dict[str, Any]) -> None:
        """Write last.pth, best_model.pth if this epoch is the best, and every few epochs a checkpoint that is kept."""
        # True success decides, then the validation loss. An epoch without rollouts counts as one without a success.
        score = (record.get("rollout/success", 0.0), -record.get("valid/total", record["train/total"]))
        is_best = score > self.state.best_score
        self.state.best_score = max(score, self.state.best_score)
        text = f"validation loss {-score[1]:.4f}"
        if "rollout/success" in record:
            text = f"true success {score[0]:.0%} of {self.options.rollout_episodes} validation episodes, {text}"
        content = self.state.checkpoint_content(self.identity, self.env_args, text)
        folder = self.options.output_dir
        if is_best:
            save_checkpoint(folder / "best_model.pth", content)
        if self.state.epoch % self.recipe.checkpoint_every == 0:
            save_checkpoint(folder / f"epoch_{self.state.epoch:03d}.pth", content)
        save_checkpoint(folder / "last.pth", {**content, "optimizer": self.optimiser.state_dict()})


if __name__ == "__main__":
    run_script(main, TrainOptions, __doc__, TO_CONTINUE, end_together)
