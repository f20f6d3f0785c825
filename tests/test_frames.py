"""Where the decoded frames of a training are kept: wherever that is, the same batches are served."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vla.demos.frames import (
    Frames,
    FramesInFile,
    FramesInMemory,
    FramesOnGpu,
    frame_bytes,
    free_memory_bytes,
    make_frames,
)
from vla.errors import UserError

loader: Any = importlib.import_module("2_dataset_loader")
SHAPE = (5, 5, 3)
CPU = torch.device("cpu")
GIGABYTE = 10**9


def _pictures(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(count).integers(0, 255, (count, *SHAPE), dtype=np.uint8))


@pytest.mark.parametrize("place", ["memory", "file"])
def test_frames_are_read_as_they_were_appended(tmp_path: Path, place: str) -> None:
    frames: Frames = FramesInMemory(7, SHAPE) if place == "memory" else FramesInFile(7, SHAPE, tmp_path)
    one, two = _pictures(3), _pictures(4)
    assert (frames.append(one), frames.append(two)) == (0, 3)
    assert torch.equal(frames.read(3, 7), two)
    assert torch.equal(frames.read(2, 4), torch.cat([one[2:], two[:1]]))
    assert (len(frames), frames.nbytes) == (7, 7 * 75)
    with pytest.raises(ValueError, match="room for 7"):
        frames.append(one)


def test_pictures_of_different_sizes_are_refused() -> None:
    frames = FramesInMemory(7, SHAPE)
    with pytest.raises(UserError, match=r"\(6, 5, 3\) and \(5, 5, 3\)"):
        frames.append(torch.zeros((1, 6, 5, 3), dtype=torch.uint8))


def test_the_file_leaves_nothing_behind(tmp_path: Path) -> None:
    frames = FramesInFile(3, SHAPE, tmp_path)
    frames.append(_pictures(3))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_into_the_memory_goes_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_frames(1000, SHAPE, CPU, tmp_path, 0.001), FramesInMemory)
    assert isinstance(make_frames(1000, SHAPE, CPU, tmp_path, 0.00001), FramesInFile)
    monkeypatch.setattr("vla.demos.frames.free_memory_bytes", lambda: 2 * 1000 * frame_bytes(SHAPE))
    assert isinstance(make_frames(1000, SHAPE, CPU, tmp_path, None), FramesInMemory)
    assert isinstance(make_frames(1001, SHAPE, CPU, tmp_path, None), FramesInFile)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, GIGABYTE + 1))
    with pytest.raises(UserError, match=r"1,001 frames take 0\.0 GB.*--num-demos"):
        make_frames(1001, SHAPE, CPU, tmp_path, None)


def test_a_gpu_with_room_holds_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 10 * frame_bytes(SHAPE), 0))
    monkeypatch.setattr(FramesOnGpu, "__init__", lambda self, *arguments: None)
    gpu = torch.device("cuda")
    assert isinstance(make_frames(10, SHAPE, gpu, tmp_path, None), FramesOnGpu)
    assert type(make_frames(11, SHAPE, gpu, tmp_path, None)) is FramesInMemory


def test_free_memory_is_that_of_this_machine() -> None:
    assert 10**8 < free_memory_bytes() < 10**13


def test_batches_are_the_same_wherever_the_frames_are(demo_file: Path, tmp_path: Path) -> None:
    names = ["demo_0", "demo_2"]
    with loader.open_demos(demo_file) as file:
        count, picture = loader.frame_count(file, names)
    served = []
    for frames in (FramesInMemory(count, picture), FramesInFile(count, picture, tmp_path)):
        dataset = loader.LiftDataset(demo_file, names, 5, 3, frames=frames)
        served.append([segment for batch in loader.make_loader(dataset, 4) for segment in batch[:-1]])
        assert len(frames) == count
    assert all(torch.equal(one, two) for one, two in zip(*served, strict=True) if one is not None)
