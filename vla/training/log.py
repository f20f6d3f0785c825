"""What a training run says of itself: the console's lines, TensorBoard, history.json and the curves.

README, "What the training log says", explains every key.
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
_EPOCH_KEYS = (
    "train/total",
    "valid/total",
    "valid/first_motion",
    "valid/first_gripper_accuracy",
    "valid/position_error_cm",
)


class TrainingLog:
    """The records of one run; `history` has a dict for each finished epoch."""

    def __init__(self, log_dir: Path, output_dir: Path, total_steps: int, history: list[dict[str, Any]]) -> None:
        self.history = history
        self._output_dir = output_dir
        self._total_steps = total_steps
        # Hides what an earlier run, or the epoch that was cut short, logged from this step on.
        self._writer = SummaryWriter(str(log_dir), purge_step=history[-1]["step"] + 1 if history else 0)

    def begin_epoch(self, step: int) -> None:
        """Count the duration of steps from here: what stood between the epochs is not theirs."""
        self._time, self._step = time.perf_counter(), step

    def step(self, step: int, learning_rate: float, values: Mapping[str, float]) -> None:
        """Every tenth step: a line with the time to go, and scalars."""
        if step % EVERY_STEPS and step != self._total_steps:
            return
        duration = (time.perf_counter() - self._time) / max(1, step - self._step)
        self._time, self._step = time.perf_counter(), step
        eta = duration * (self._total_steps - step)
        print(
            f"step {step:05d}/{self._total_steps} ({step / self._total_steps:.1%}) | loss {values['total']:.4f} | "
            f"motion {values['motion']:.4f} | gripper {values['gripper']:.4f} | aux {values['auxiliary']:.4f} | "
            f"lr {learning_rate:.1e} | dt {duration:.2f} s | eta {eta / 60:.1f} min",
            flush=True,
        )
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)

    def epoch(self, record: dict[str, Any], epochs: int) -> None:
        """Add a finished epoch to the history and rewrite its files."""
        self.history.append(record)
        for name, value in record.items():
            if name.startswith(("valid/", "rollout/")):
                self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()
        parts = [f"{name} {record[name]:.4f}" for name in _EPOCH_KEYS if name in record]
        print(f"epoch {record['epoch']}/{epochs} | {' | '.join(parts)} | {record['seconds']:.0f} s", flush=True)
        write_text(self._output_dir / "history.json", json.dumps(self.history, indent=1))
        self._plot()

    def video(self, tag: str, path: Path, step: int) -> None:
        """Show a written video in TensorBoard."""
        self._writer._get_file_writer().add_summary(gif_summary(tag, path), step)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self._writer.close()

    def _plot(self) -> None:
        """Figure 2 of the report: losses at the left, learning rate at the right."""
        matplotlib.use("agg")
        from matplotlib import pyplot as plt

        epochs = [record["epoch"] for record in self.history]
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for name in ("train/total", "valid/total", "train/motion", "valid/motion"):
            if name in self.history[0]:
                left.plot(epochs, [record[name] for record in self.history], label=name, marker=".")
        left.set(xlabel="epoch", ylabel="loss", yscale="log", title="Loss")
        left.legend()
        right.plot(epochs, [record["learning_rate"] for record in self.history], marker=".")
        right.set(xlabel="epoch", ylabel="learning rate", title="Learning rate")
        with atomic_path(self._output_dir / "training_curves.png") as temporary:
            figure.savefig(temporary, dpi=90)
        plt.close(figure)
