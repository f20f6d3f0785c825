"""Several processes that train together: their parts of a batch, and what they make of it beside one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.conftest import ROOT, run_script, wait_for
from vla import stages
from vla.demos.schema import demo_names, open_demos
from vla.errors import UserError
from vla.policies.batch import Batch, Segment
from vla.policies.checkpoint import load_checkpoint
from vla.policies.network import Prediction, model_architecture
from vla.policies.preprocess import Augmentation, ImageSpec, prepare_augmented
from vla.training.distributed import Processes, join
from vla.training.recipes import RECIPES

IMAGE = ImageSpec(size_px=32)
WINDOWS_OF_SEGMENTS = (1, 3, 2, 4, 1, 2, 5)
"""Parts of this batch differ in their numbers of windows and frames, and so do the entries that count in them."""


def _batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    segments = []
    for index, count in enumerate(WINDOWS_OF_SEGMENTS):
        frames = count + 1
        segments.append(
            Segment(
                frames=torch.randint(0, 255, (frames, 38, 38, 3), generator=random, dtype=torch.uint8),
                windows=torch.arange(count)[:, None] + torch.arange(2),
                actions=2 * torch.rand(count, 10, 7, generator=random) - 1,
                mask=torch.rand(count, 10, generator=random) > 0.3,
                positions=torch.randn(frames, 4, generator=random),
                present=torch.tensor([[index % 3 > 0]]).expand(frames, 1),
                named=torch.cat(
                    [torch.randn(count, 3, generator=random), torch.full((count, 1), float(index % 2))], dim=1
                ),
                proprioception=torch.randn(frames, 4, generator=random),
                instructions=[f"instruction {index}"] * count,
            )
        )
    batch: Batch = stages.dataset_loader().collate(segments)
    return batch


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("is_present_known", [True, False])
def test_the_losses_of_the_parts_add_up_to_those_of_the_batch(count: int, is_present_known: bool) -> None:
    whole = _batch() if is_present_known else _batch()._replace(present=None)
    total = len(whole.windows)
    torch.manual_seed(0)  # other draws can give parts of nearly equal shares
    named = torch.randn(total, 12)
    prediction = Prediction(torch.randn(total, 10, 6), torch.randn(total, 10), named)
    auxiliary = torch.randn(len(whole.frames), 13)
    losses = model_architecture().compute_losses
    parts, frames = [], 0
    for rank in range(count):
        part = Processes(rank, count).part_of(whole)
        assert part.batch.instructions == whole.instructions[part.windows]
        rows = part.windows
        of_part = Prediction(prediction.motion[rows], prediction.gripper_logit[rows], named[rows])
        of_frames = auxiliary[frames : frames + len(part.batch.frames)]
        frames += len(part.batch.frames)
        parts.append(torch.stack(losses(of_part, of_frames, part.batch, RECIPES["full"], whole)))
    expected = torch.stack(losses(prediction, auxiliary, whole, RECIPES["full"]))
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), expected)
    shares = torch.stack(parts)[:, 0] / expected[0]
    assert float(shares.max() - shares.min()) > 0.01  # a mean of their means would be another number


def test_a_segment_is_augmented_in_the_same_way_in_every_part() -> None:
    whole = _batch()

    def prepared(batch: Batch, others: tuple[int, int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return prepare_augmented(batch.frames, batch.segments, IMAGE, Augmentation(), 3, generator, others)

    parts = [Processes(rank, 3).part_of(whole) for rank in range(3)]
    together = torch.cat([prepared(part.batch, part.others) for part in parts])
    assert torch.equal(together, prepared(whole, (0, 0)))


def test_a_batch_must_be_shared_equally_but_an_epochs_last_one_may_be_smaller() -> None:
    recipe = RECIPES["full"]  # 8 windows in 4 segments
    Processes(0, 4).check_batch(recipe)
    with pytest.raises(UserError, match=r"3 processes .* 8 windows equally; give a multiple of 6, such as .* 6, or"):
        Processes(0, 3).check_batch(recipe)
    whole = _batch()
    assert all(Processes(rank, 8).part_of(whole).is_whole for rank in range(8))
    sizes = [len(Processes(rank, 4).part_of(whole).batch.windows) for rank in range(4)]
    assert sizes == [1, 5, 5, 7]


def _gradients(processes: Processes) -> dict[str, torch.Tensor]:
    """What two passes over the batch leave: gradients, running statistics, losses and the next random number."""
    torch.manual_seed(0)
    whole, architecture = _batch(), model_architecture()
    network: Any = architecture.VLA(
        architecture.ModelConfig(image=IMAGE, observation_horizon=2, locates_named=True, language_in_vision="both")
    )
    network.fit_language(torch.randn(4, 512))
    network.train()
    joined = processes.joined(network)
    part = processes.part_of(whole)
    language = torch.randn(len(whole.windows), 512)[part.windows]
    left: dict[str, torch.Tensor] = {}
    for step in range(2):
        generator = torch.Generator().manual_seed(5)
        batch = part.batch
        images = prepare_augmented(batch.frames, batch.segments, IMAGE, Augmentation(), 3, generator, part.others)
        with processes.forward(part):
            prediction, auxiliary = joined(images, batch.windows, language, batch.proprioception)
        losses = architecture.compute_losses(prediction, auxiliary, batch, RECIPES["full"], whole)
        network.zero_grad()
        processes.backward(losses.total, part)
        left[f"losses {step}"] = torch.stack(processes.add_up(losses, part)).detach()
    left |= {name: value.grad for name, value in network.named_parameters()}
    left |= dict(network.named_buffers())
    return {**left, "random": torch.rand(4)}


def _join_and_save_gradients(rank: int, count: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    with join("cpu") as processes:
        torch.save(_gradients(processes), folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_compute_the_gradient_of_one(tmp_path: Path) -> None:
    """With dropout and batch normalisation, whose random numbers and statistics are those of the whole batch."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(_join_and_save_gradients, (2, port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone = _gradients(Processes())
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        # Some gradients are zero but for rounding, such as those of the biases of attention's keys.
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-6)
    assert torch.equal(first["random"], alone["random"])


def _train(folder: Path, data: Path, *arguments: str) -> list[str]:
    """Arguments of a short training, without validation."""
    exclude = data.with_name("valid.txt")
    with open_demos(data) as file:
        exclude.write_text("\n".join(demo_names(file, "valid")))
    return [
        *("--data", str(data), "--output-dir", str(folder), "--log-dir", str(folder / "log")),
        *("--epochs", "2", "--max-steps", "2", "--batch-windows", "8", "--learning-rate", "1e-4"),
        *("--rollout-episodes", "0", "--text-encoder", "deaf", "--precision", "float32", "--device", "cpu"),
        *("--exclude", str(exclude)),
        *arguments,
    ]


def _torchrun(processes: int, arguments: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*launcher, str(ROOT / "4_train.py"), *arguments]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_resume_to_the_bit(demo_file: Path, tmp_path: Path) -> None:
    alone = run_script(ROOT / "4_train.py", *_train(tmp_path / "alone", demo_file))
    assert alone.returncode == 0, alone.stderr
    two = run_script(*_torchrun(2, _train(tmp_path / "two", demo_file)))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("best: epoch") == 1
    one, both = (load_checkpoint(tmp_path / name / "last.pth") for name in ("alone", "two"))
    weights = [name for name in one["model"] if "running" not in name and "num_batches" not in name]
    apart, size = (
        float(sum((value.double().square().sum() for value in values), torch.zeros(())).sqrt())
        for values in (
            [one["model"][name] - both["model"][name] for name in weights],
            [one["model"][name] for name in weights],
        )
    )
    assert 0 < apart / size < 2e-3
    for before, after in zip(one["training"]["history"], both["training"]["history"], strict=True):
        assert after["train/total"] == pytest.approx(before["train/total"], rel=0.01)

    command = [sys.executable, *_torchrun(2, _train(tmp_path / "killed", demo_file))]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for((tmp_path / "killed/last.pth").exists)
    victim.terminate()  # torchrun ends its processes, too, which run in sessions of their own
    victim.wait()
    assert load_checkpoint(tmp_path / "killed/last.pth")["training"]["epoch"] == 1
    resumed = run_script(*_torchrun(2, _train(tmp_path / "killed", demo_file, "--resume")))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch 1 of 2" in resumed.stdout
    continued = load_checkpoint(tmp_path / "killed/last.pth")
    assert all(torch.equal(value, continued["model"][name]) for name, value in both["model"].items())


@pytest.mark.slow
def test_a_mistake_of_all_processes_is_one_line(demo_file: Path, tmp_path: Path) -> None:
    done = run_script(*_torchrun(2, _train(tmp_path / "odd", demo_file, "--batch-windows", "7")))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "2 processes cannot share a batch of 7 windows equally" in errors[0]
    assert "exitcode  : 2" in done.stderr  # in torchrun's own report
    assert not (tmp_path / "odd").exists()
