"""Records of a training run: lines on the console, TensorBoard, history.json and the training curves.

docs/training.md explains every key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from torch.utils.tensorboard import SummaryWriter

from vla.evaluation.video import gif_summary
from vla.files import atomic_path, write_text

EVERY_STEPS = 10
"""Steps between two log lines."""
_EPOCH_KEYS = (
    "train/total",
    "valid/total",
    "valid/first_motion",
    "valid/first_gripper_accuracy",
    "valid/position_error_cm",
)


class TrainingLog:
    """The records of one run."""

    def __init__(self, log_dir: Path | None, output_dir: Path, steps_done: int, total_steps: int) -> None:
        """Log into `log_dir` (TensorBoard) and `output_dir` (the rest), from the step after `steps_done` on.

        Args:
            log_dir: None in a process that leaves the records to another one.
        """
        self._output_dir = output_dir
        self._total_steps = total_steps
        # TensorBoard hides the later steps of an earlier run, and those of an epoch that was interrupted.
        self._writer: SummaryWriter | None = None
        if log_dir is not None:
            self._writer = SummaryWriter(str(log_dir), purge_step=steps_done + 1 if steps_done else 0)
        self._time, self._step = time.perf_counter(), 0

    def begin_epoch(self, step: int) -> None:
        """Measure the duration of steps from now on, so that the time between epochs is not part of it."""
        self._time, self._step = time.perf_counter(), step

    def is_due(self, step: int) -> bool:
        """Whether this step is logged: every tenth, and the last."""
        return step % EVERY_STEPS == 0 or step == self._total_steps

    def step(self, step: int, learning_rate: float, values: Mapping[str, float]) -> None:
        """Print a line with the losses and the remaining time, and write the scalars."""
        duration = (time.perf_counter() - self._time) / max(1, step - self._step)
        self._time, self._step = time.perf_counter(), step
        eta = duration * (self._total_steps - step)
        auxiliary = f"aux {values['auxiliary']:.4f} | " if "auxiliary" in values else ""
        print(
            f"step {step:05d}/{self._total_steps} ({step / self._total_steps:.1%}) | loss {values['total']:.4f} | "
            f"motion {values['motion']:.4f} | gripper {values['gripper']:.4f} | {auxiliary}"
            f"lr {learning_rate:.1e} | dt {duration:.2f} s | eta {eta / 60:.1f} min",
            flush=True,
        )
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)
            self._writer.add_scalar("learning_rate", learning_rate, step)

    def epoch(self, history: list[dict[str, Any]]) -> None:
        """Log the last of the finished epochs, and write the files that show all of them."""
        assert self._writer is not None
        record = history[-1]
        for name, value in record.items():
            if name.startswith(("valid/", "rollout/")):
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()
        write_text(self._output_dir / "history.json", json.dumps(history, indent=1))
        self._plot(history)

    def say_finished(self, record: dict[str, Any], epochs: int) -> None:
        """Print the line of an epoch. What it says is finished must be in a checkpoint by then."""
        parts = [f"{name} {record[name]:.4f}" for name in _EPOCH_KEYS if name in record]
        print(f"epoch {record['epoch']}/{epochs} | {' | '.join(parts)} | {record['seconds']:.0f} s", flush=True)

    def video(self, tag: str, path: Path, step: int) -> None:
        """Add a video file to TensorBoard."""
        assert self._writer is not None
        self._writer._get_file_writer().add_summary(gif_summary(tag, path), step)

    def close(self) -> None:
        """Write the rest of the TensorBoard file and close it."""
        if self._writer is not None:
            self._writer.close()

    def _plot(self, history: list[dict[str, Any]]) -> None:
        """Draw Figure 2 of the report: losses at the left, learning rate at the right."""
        matplotlib.use("agg")
        from matplotlib import pyplot as plt

        epochs = [record["epoch"] for record in history]
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for name in ("train/total", "valid/total", "train/motion", "valid/motion"):
            if name in history[0]:
                left.plot(epochs, [record[name] for record in history], label=name, marker=".")
        left.set(xlabel="epoch", ylabel="loss", yscale="log", title="Loss")
        left.legend()
        right.plot(epochs, [record["learning_rate"] for record in history], marker=".")
        right.set(xlabel="epoch", ylabel="learning rate", title="Learning rate")
        with atomic_path(self._output_dir / "training_curves.png") as temporary:
            figure.savefig(temporary, dpi=90)
        plt.close(figure)
