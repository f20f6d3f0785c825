"""What a training step, a batch and a decision cost, beside the least and beside the way to begin with (`bench.py`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import scripts
import torch
import torchvision
from bench_clock import Part
from torch import Tensor

from vla import stages
from vla.errors import UserError
from vla.files import SHIPPED
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_policy, instruction_embeddings, load_checkpoint
from vla.training.recipes import RECIPES

CPU = torch.device("cpu")
TRAINING_STEP = "training step (32 windows)"
HISTORY = 10
"""Frames that the report's policy encodes for every decision and every window."""


def shipped_actor() -> PolicyActor:
    """The shipped policy, arranged for acting on the CPU."""
    stored = load_checkpoint(SHIPPED)
    return PolicyActor(build_policy(stored, SHIPPED, CPU), instruction_embeddings(stored, "none"), CPU)


def bare_decision(frames: int, layout: torch.memory_format) -> Callable[[], Tensor]:
    """A forward pass of ResNet18 alone over some frames at the shipped policy's size, in float32."""
    network: Any = torchvision.models.resnet18(weights=None).eval().to(memory_format=layout)
    pictures = torch.randn(frames, 3, 128, 128).to(memory_format=layout)

    @torch.inference_mode()
    def run() -> Tensor:
        scores: Tensor = network(pictures)
        return scores

    return run


def decision_part(limit: Callable[[], Tensor], naive: Callable[[], Tensor]) -> Part:
    """A decision of the shipped policy, from the picture to the action, ready to be timed."""
    actor = shipped_actor()
    actor.reset("Pick up the cube", seed=0)
    with np.load(scripts.ROOT / "docs/examples/familiar.npz") as stored:
        pictures = itertools.cycle(stored["pictures"])  # (n, 224, 224, 3) uint8, frames of demonstrations
    return Part("a decision", lambda: actor.select_action_from_image(next(pictures), None), limit, naive, naive_calls=3)


@contextmanager
def training_parts(data: Path, bfloat16: bool, compiled: bool) -> Iterator[list[Part]]:
    """Reading a batch of the recipe "cpu", and ways to train on it, ready to be timed; `train_steps` times our own."""
    loader, recipe = stages.dataset_loader(), RECIPES["cpu"]
    with h5py.File(data, "r") as file:
        names = list(file["data"])
        dataset = loader.LiftDataset(
            data, names, recipe.stride, recipe.windows_per_segment, recipe.observation_horizon, image=recipe.image
        )
        batches = _endless(loader.make_loader(dataset, recipe.batch_segments, torch.Generator().manual_seed(0)))
        batch = next(batches)
        count = len(batch.frames)
        places = itertools.cycle([(name, step) for name in names for step in range(0, 40, 13)])

        def decode_each() -> None:
            for name, step in itertools.islice(places, count):
                file["data"][name]["images"][step]

        naive = _backward(HISTORY * count, torch.contiguous_format, bfloat16=False)
        bare = _backward(count, torch.channels_last, bfloat16)
        parts = [
            Part("reading a batch", lambda: next(batches), batch.frames.clone, decode_each, naive_calls=1),
            Part(TRAINING_STEP, None, bare, naive, calls=3, naive_calls=1),
        ]
        if compiled:
            step = _backward(count, torch.channels_last, bfloat16, compiled=True)
            parts.append(Part("forward and backward of ResNet18 alone, compiled", step, None, None, calls=3))
        yield parts


def train_steps(data: Path, steps: int) -> float:
    """Milliseconds of a step of `4_train.py`: two trainings differ by so many steps, and share all else.

    Raises:
        UserError: the file has fewer windows than that takes.
    """
    taken = []
    for number in (3, 3 + steps):
        with TemporaryDirectory() as folder:
            scripts.run_stage(
                *("4_train.py", "--data", data.resolve(), "--output-dir", folder, "--log-dir", Path(folder, "log")),
                *("--clip-weights", "none", "--epochs", 1, "--max-steps", number, "--rollout-episodes", 0),
                *("--device", "cpu"),
            )
            (record,) = json.loads(Path(folder, "history.json").read_text())
            if record["step"] != number:
                raise UserError(f"{data} makes {record['step']} of {number} steps; give a longer one")
            taken.append(record["seconds"])
    return 1000 * (taken[1] - taken[0]) / steps


def _endless(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


def _backward(frames: int, layout: torch.memory_format, bfloat16: bool, compiled: bool = False) -> Callable[[], None]:
    """Forward and backward of ResNet18 alone over some frames at the recipe's size."""
    network: Any = torchvision.models.resnet18(weights=None).to(memory_format=layout)
    run_network = torch.compile(network) if compiled else network
    pictures = torch.randn(frames, 3, 128, 128).to(memory_format=layout)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = run_network(pictures).float().square().mean()
        loss.backward()

    return run
