"""What a training step, a batch and a decision cost, beside the least and beside the way to begin with (`bench.py`)."""

from __future__ import annotations

import importlib
import itertools
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

from vla.files import SHIPPED
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_policy, instruction_embeddings, load_checkpoint
from vla.policies.network import model_architecture
from vla.training.demonstrations import Demonstrations
from vla.training.distributed import join
from vla.training.options import TrainOptions
from vla.training.run_identity import RunIdentity
from vla.training.run_state import RunState

CPU = torch.device("cpu")
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
def training_parts(data: Path, compiled: bool) -> Iterator[list[Part]]:
    """A training step of the recipe "cpu", and reading its batch, ready to be timed."""
    with TemporaryDirectory() as folder, join("cpu") as processes:
        options = TrainOptions(
            data=data, output_dir=Path(folder), log_dir=Path(folder, "log"), clip_weights="none", rollout_episodes=0,
            device="cpu",
        )  # fmt: skip
        trainer = _trainer(options, processes)
        network = processes.joined(trainer.network.train())
        augmentation = torch.Generator().manual_seed(0)
        batches = _endless(trainer.train_batches)
        batch = next(batches)
        bfloat16 = trainer.identity.bfloat16

        with h5py.File(data, "r") as file:
            frames = itertools.cycle([(name, t) for name in file["data"] for t in range(0, 40, 13)])

            def decode_each() -> None:
                for name, step in itertools.islice(frames, len(batch.frames)):
                    file["data"][name]["images"][step]

            parts = [
                Part(
                    f"training step ({len(batch.windows)} windows)",
                    lambda: trainer.train_step(network, batch, augmentation),
                    _backward(len(batch.frames), torch.channels_last, bfloat16),
                    _backward(HISTORY * len(batch.frames), torch.contiguous_format, False),
                    calls=3,
                    naive_calls=1,
                ),
                Part("reading a batch", lambda: next(batches), batch.frames.clone, decode_each, naive_calls=1),
            ]
            if compiled:
                step = _backward(len(batch.frames), torch.channels_last, bfloat16, compiled=True)
                parts.append(Part("forward and backward of ResNet18 alone, compiled", step, None, None, calls=3))
            yield parts


def _trainer(options: TrainOptions, processes: Any) -> Any:
    recipe = options.resolve()
    demonstrations = Demonstrations.select(options.file, None, None)
    config = model_architecture().ModelConfig(
        image=recipe.image, pooling=options.pooling, observation_horizon=recipe.observation_horizon
    )
    identity = RunIdentity.of(options, recipe, config, demonstrations)
    state = RunState.begin(options, recipe, config, demonstrations.instructions)
    return importlib.import_module("4_train").Trainer(options, recipe, demonstrations, identity, state, processes)


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
