"""Training runs: what they start from, which stored run they continue, and when their losses leave the device."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)

from vla.errors import MachineError, UserError
from vla.files import SHIPPED, run_lock
from vla.policies.batch import Batch
from vla.policies.checkpoint import load_checkpoint, save_checkpoint
from vla.policies.devices import mixed_precision, stop_on_machine_fault, uses_bfloat16
from vla.policies.weights import describe
from vla.sim.config import EnvConfig
from vla.training.loss_meter import LossMeter
from vla.training.options import TrainOptions
from vla.training.run_identity import RunIdentity
from vla.training.run_state import find_run

train = importlib.import_module("4_train").main


@pytest.fixture(scope="module")
def finished(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOptions, str]:
    """A run of one epoch and two steps: its options, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    options = TrainOptions(
        data=demo_file,
        output_dir=folder / "checkpoints",
        log_dir=folder / "log",
        epochs=1,
        max_steps=2,
        batch_windows=8,
        rollout_episodes=0,
        clip_weights="none",
        device="cpu",
    )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        train(options)
    return options, printed.getvalue()


def _copy(source: Path, target: Path, change: Callable[[h5py.File], None]) -> Path:
    target.write_bytes(source.read_bytes())
    with h5py.File(target, "a") as file:
        change(file)
    return target


def _collect_anew(file: h5py.File) -> None:
    """The names stay, as in a collection with another --seed; what they name is different."""
    file.pop("index", None)
    for old, new in (("demo_0", "kept"), ("demo_1", "demo_0"), ("kept", "demo_1")):
        file["data"].move(old, new)


def _add_demonstration(file: h5py.File) -> None:
    """Add a training demonstration behind the others, as --dagger does."""
    file.pop("index", None)
    file.copy(file["data/demo_1"], file["data"], name="demo_3")
    names = [*file["mask/train"][:], b"demo_3"]
    del file["mask/train"]
    file["mask/train"] = np.array(names, dtype="S16")


def test_the_cpu_recipe_starts_vision_from_scratch_and_says_what_else_there_is(
    finished: tuple[TrainOptions, str],
) -> None:
    options, printed = finished
    assert "vision starts from scratch (recipe cpu); --vision-weights IMAGENET1K_V1 starts from ImageNet's" in printed
    assert "WARNING: the vision encoder" not in printed
    assert "WARNING: the text encoder starts UNTRAINED (--clip-weights none)" in printed
    stored = load_checkpoint(options.output_dir / "last.pth")
    assert describe(stored["vision_identity"]) == "UNTRAINED (from scratch, recipe cpu)"
    assert stored["training"]["identity"]["recipe"]["vision_weights"] == "none"
    assert dataclasses.replace(options, recipe="full").resolve().vision_weights == "IMAGENET1K_V1"
    assert dataclasses.replace(options, vision_weights="IMAGENET1K_V1").resolve().vision_weights == "IMAGENET1K_V1"


def test_the_fast_recipe_trains_without_dropout_and_knows_where_its_hand_is(
    finished: tuple[TrainOptions, str], tmp_path: Path
) -> None:
    options = dataclasses.replace(
        finished[0], recipe="fast", proprioception=True, set=("rollout_every=1",), output_dir=tmp_path
    )
    train(options)
    model = load_checkpoint(tmp_path / "best_model.pth")["model_config"]
    assert (model["image"]["size_px"], model["dropout"], model["proprioception"]) == (
        options.resolve().image.size_px,
        0.0,
        True,
    )
    with pytest.raises(UserError, match=r"--recipe fast sees the middle of the table alone.*; add --proprioception"):
        dataclasses.replace(options, proprioception=False)


def test_frames_in_a_file_train_the_same_weights(
    finished: tuple[TrainOptions, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, printed = finished
    assert "MB, in memory" in printed
    train(dataclasses.replace(options, output_dir=tmp_path, frame_memory_gb=0.0))
    assert "MB, in a temporary file, for want of memory" in capsys.readouterr().out
    first, again = (load_checkpoint(folder / "last.pth")["model"] for folder in (options.output_dir, tmp_path))
    assert all(torch.equal(weights, again[name]) for name, weights in first.items())


def test_a_finished_run_that_is_asked_for_again_stays_as_it_is(
    finished: tuple[TrainOptions, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options, _ = finished
    before = (options.output_dir / "last.pth").read_bytes()
    train(dataclasses.replace(options, resume=True))
    printed = capsys.readouterr().out
    assert "is finished: 1 epochs" in printed
    assert "best: epoch 1" in printed
    assert (options.output_dir / "last.pth").read_bytes() == before


def test_a_finished_run_is_no_answer_to_other_options_or_data(
    finished: tuple[TrainOptions, str], demo_file: Path, tmp_path: Path
) -> None:
    options = dataclasses.replace(finished[0], resume=True)
    excluded = tmp_path / "exclude.txt"
    excluded.write_text("demo_0\n")
    anew = _copy(demo_file, tmp_path / "anew.hdf5", _collect_anew)
    grown = _copy(demo_file, tmp_path / "grown.hdf5", _add_demonstration)
    for change, words in (
        ({"num_demos": 1}, r"train demonstrations: 2 then, 1 now; num_demos not given then, 1 now"),
        ({"exclude": excluded}, r"train demonstrations: 2 then, 1 now"),
        ({"data": anew}, r"a finished run with other settings \(another file of demonstrations\)"),
        ({"data": grown}, r"train demonstrations: 2 then, 3 now; another file of demonstrations"),
        ({"epochs": 2, "seed": 9}, r"epochs 1 then, 2 now; seed 0 then, 9 now"),
        ({"vision_weights": "IMAGENET1K_V1"}, r"vision_weights none then, IMAGENET1K_V1 now"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            train(dataclasses.replace(options, **change))
        assert "--overwrite" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_finished_run_can_be_exported_after_its_data_have_grown(
    finished: tuple[TrainOptions, str], demo_file: Path, tmp_path: Path
) -> None:
    grown = _copy(demo_file, tmp_path / "grown.hdf5", _add_demonstration)
    options = dataclasses.replace(finished[0], resume=True, data=grown, export=tmp_path / "policy.pth")
    train(options)
    exported = load_checkpoint(tmp_path / "policy.pth")
    assert exported["training"]["epoch"] == 1
    stored = torch.load(tmp_path / "policy.pth", weights_only=True)["language"]["embeddings"]
    whole = load_checkpoint(options.output_dir / "best_model.pth")["language"]["embeddings"]
    assert stored.dtype == torch.float16
    assert exported["language"]["embeddings"].dtype == torch.float32
    torch.testing.assert_close(exported["language"]["embeddings"], whole, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match="num_demos"):
        train(dataclasses.replace(options, num_demos=2))
    anew = _copy(grown, tmp_path / "anew.hdf5", _collect_anew)
    with pytest.raises(UserError, match="another file of demonstrations"):
        train(dataclasses.replace(options, data=anew))


def test_one_run_at_a_time_writes_to_a_folder(finished: tuple[TrainOptions, str]) -> None:
    options = dataclasses.replace(finished[0], overwrite=True)
    before = (options.output_dir / "last.pth").read_bytes()
    with run_lock(options.output_dir), pytest.raises(UserError, match="another run is writing to"):
        train(options)
    assert (options.output_dir / "last.pth").read_bytes() == before


@pytest.mark.slow
def test_losses_that_are_not_finite_end_the_run_before_it_saves(
    finished: tuple[TrainOptions, str], tmp_path: Path
) -> None:
    """And --overwrite has removed the old run's checkpoints by then, but nothing else."""
    for name in ("last.pth", "best_model.pth", "epoch_010.pth", "epoch_mine.pth"):
        (tmp_path / name).write_bytes(b"old")
    options = dataclasses.replace(
        finished[0], output_dir=tmp_path, log_dir=tmp_path / "log", learning_rate=1e30, max_steps=4, overwrite=True
    )
    with pytest.raises(UserError, match=r"step [1-4]: the loss became .* smaller --learning-rate"):
        train(options)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["epoch_mine.pth"]


def test_losses_leave_the_device_once_for_all_waiting_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def copy(tensor: torch.Tensor) -> list[list[float]]:
        copies.append(tuple(tensor.shape))
        rows: list[list[float]] = tensor.numpy().tolist()
        return rows

    monkeypatch.setattr(torch.Tensor, "tolist", copy)
    batches = [{"total": torch.rand(()), "motion": torch.rand(())} for _ in range(13)]
    meter = LossMeter()
    read = []
    for number, losses in enumerate(batches, start=1):
        meter.add(losses)
        if number % 10 == 0:
            read += meter.read()
    read += meter.read()
    assert meter.read() == []
    assert copies == [(10, 2), (3, 2)]
    assert read == [{name: float(value) for name, value in losses.items()} for losses in batches]
    assert meter.means("train")["train/total"] == sum(float(losses["total"]) for losses in batches) / 13


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_cpu_attends_with_the_kernels_that_are_faster(bfloat16: bool) -> None:
    queries = torch.randn(2, 8, 10, 48, requires_grad=True)
    with torch.profiler.profile() as profile, mixed_precision(torch.device("cpu"), bfloat16):
        attended = F.scaled_dot_product_attention(queries, queries, queries)
    names = {event.name for event in profile.events()}
    assert any("flash" in name for name in names) is not bfloat16
    assert attended.dtype == (torch.bfloat16 if bfloat16 else torch.float32)


def test_every_training_step_enters_mixed_precision(
    finished: tuple[TrainOptions, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = []

    def recording(device: torch.device, bfloat16: bool) -> AbstractContextManager[None]:
        entered.append((device.type, bfloat16))
        return mixed_precision(device, bfloat16)

    monkeypatch.setattr(importlib.import_module("4_train"), "mixed_precision", recording)
    train(dataclasses.replace(finished[0], output_dir=tmp_path))
    assert set(entered) == {("cpu", uses_bfloat16("auto", torch.device("cpu")))}
    assert len(entered) >= 2


def test_a_full_gpu_stops_the_run_with_what_to_do() -> None:
    stopped = pytest.raises(MachineError, match=r"^the GPU's memory is full \(.*\); go on with --resume$")
    with stopped, stop_on_machine_fault("go on with --resume"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee the documentation.")
    with pytest.raises(RuntimeError, match="shapes differ"), stop_on_machine_fault("go on"):
        raise RuntimeError("shapes differ")


def test_a_full_disk_stops_the_run_with_what_to_do() -> None:
    stopped = pytest.raises(MachineError, match=r"\(OSError: .*No space left on device\); go on with --resume$")
    with stopped, stop_on_machine_fault("go on with --resume"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), stop_on_machine_fault("go on"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_batch_moves_to_its_device_without_its_segments() -> None:
    empty = torch.zeros(2)
    batch = Batch(empty, empty, empty, empty, empty, empty, empty, empty, empty, ["Pick up the cube"])
    moved = batch.to(torch.device("meta"))
    on_meta = {name for name, value in moved._asdict().items() if getattr(value, "is_meta", False)}
    assert on_meta == set(Batch._fields) - {"segments", "instructions"}


def _identity(seed: int = 0) -> RunIdentity:
    """Identity of a run, as `RunIdentity.of` makes it."""
    options = TrainOptions()
    return RunIdentity(
        recipe=dataclasses.asdict(options.resolve()),
        model={},
        language={},
        episodes={"train": ["demo_0"], "valid": []},
        data_sha256="",
        demos_sha256=None,
        stills_sha256=None,
        num_demos=None,
        max_steps=None,
        bfloat16=False,
        init_sha256=None,
        seed=seed,
        restarts=0,
        rollout_episodes=0,
        rollout_steps=1,
        clip_weights="none",
    )


def _save_policy(path: Path, training: dict[str, object]) -> None:
    """Write a checkpoint whose policy nobody builds."""
    untrained = {"source": "untrained", "pretrained": False, "why": "a test"}
    content = {
        "model_config": {},
        "model": {},
        "text_identity": {**untrained, "sha256": "0" * 64},
        "vision_identity": untrained,
        "env_args": EnvConfig().to_env_args(),
        "language": {"texts": [], "embeddings": torch.zeros(0, 512)},
        "training": training,
    }
    save_checkpoint(path, content)


def test_a_policy_without_its_run_is_not_replaced(tmp_path: Path) -> None:
    best = tmp_path / "best_model.pth"
    best.write_bytes(b"somebody's policy")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"name another --output-dir"):
            find_run(tmp_path / "last.pth", TrainOptions(output_dir=tmp_path, resume=resume), _identity())
    assert best.read_bytes() == b"somebody's policy"
    assert find_run(tmp_path / "last.pth", TrainOptions(output_dir=tmp_path, overwrite=True), _identity()) is None


def test_a_run_whose_first_epoch_failed_between_its_two_checkpoints_starts_anew(tmp_path: Path) -> None:
    last, options = tmp_path / "last.pth", TrainOptions(output_dir=tmp_path, resume=True)
    _save_policy(tmp_path / "best_model.pth", {"epoch": 1, "identity": _identity().to_dict()})
    assert find_run(last, options, _identity()) is None
    with pytest.raises(UserError, match="without its run"):
        find_run(last, options, _identity(seed=1))
    _save_policy(tmp_path / "best_model.pth", {"epoch": 2, "identity": _identity().to_dict()})
    with pytest.raises(UserError, match="without its run"):
        find_run(last, options, _identity())


def test_an_export_replaces_nothing_but_an_exported_policy(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("the user's")
    for path, words in (
        (tmp_path, "is a folder"),
        (notes, "not a checkpoint of this project"),
        (tmp_path / "last.pth", "a checkpoint of the training itself"),
        (tmp_path / "best_model.pth", "a checkpoint of the training itself"),
        (tmp_path / "epoch_005.pth", "a checkpoint of the training itself"),
        (SHIPPED, "the shipped policy"),
    ):
        with pytest.raises(UserError, match=f"^--export .*{words}"):
            TrainOptions(output_dir=tmp_path, export=path)
    exported = tmp_path / "policy.pth"
    TrainOptions(output_dir=tmp_path, export=exported)
    _save_policy(exported, {"epoch": 1})
    TrainOptions(output_dir=tmp_path, export=exported)


def test_there_are_at_most_as_many_validation_episodes_as_seeds() -> None:
    with pytest.raises(UserError, match="--rollout-episodes must be at most 1000000"):
        TrainOptions(rollout_episodes=1_000_001)
