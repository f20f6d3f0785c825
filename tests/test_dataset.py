"""Windows compared with the raw episode, frame by frame; batches; the images of training and of control."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from vla import stages
from vla.errors import UserError
from vla.policies.preprocess import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    ImageSpec,
    cut,
    prepare,
    prepare_augmented,
    prepare_regions,
)

loader = stages.dataset_loader()
T, K = 10, 10


@pytest.mark.parametrize(("stride", "per_segment"), [(5, 1), (1, 8), (3, 4)])
def test_windows_align_with_the_raw_episode(demo_file: Path, stride: int, per_segment: int) -> None:
    dataset = loader.LiftDataset(demo_file, ["demo_1"], stride, per_segment)
    with h5py.File(demo_file) as file:
        images, actions = file["data/demo_1/images"][:], file["data/demo_1/actions"][:]
    ends = []
    for (_, segment_ends), segment in zip(dataset.segments, dataset, strict=False):
        for row, end in enumerate(segment_ends):
            ends.append(end)
            for lag in range(T):  # o[t-9..t], the first frame repeated before the start
                expected = images[max(0, end - T + 1 + lag)]
                np.testing.assert_array_equal(segment.frames[segment.windows[row, lag]], expected)
            for ahead in range(K):  # a[t..t+9], masked after the end
                inside = end + ahead < len(actions)
                assert segment.mask[row, ahead] == inside
                if inside:
                    np.testing.assert_array_equal(segment.actions[row, ahead], actions[end + ahead])
    assert ends == list(range(0, len(actions), stride))
    assert dataset.window_count() == len(ends)


@pytest.mark.parametrize("per_segment", [1, 3])
def test_of_the_hold_every_fourth_window_is_served_and_of_the_rest_each(demo_file: Path, per_segment: int) -> None:
    dataset = loader.LiftDataset(demo_file, ["demo_0", "demo_1"], 1, per_segment, hold_stride=4)
    for name in ("demo_0", "demo_1"):
        with h5py.File(demo_file) as file:
            phases, actions = file[f"data/{name}/phases"][:], file[f"data/{name}/actions"][:]
        (hold,) = np.nonzero(phases == b"hold")
        (rest,) = np.nonzero(phases != b"hold")
        served = [(number, ends) for number, (of, ends) in enumerate(dataset.segments) if of == name]
        assert [end for _, ends in served for end in ends] == sorted([*rest, *hold[3::4]])
        assert len(hold) > 12
        last, ends = served[-1]
        np.testing.assert_array_equal(dataset[last].actions[:, 0], actions[ends])


def test_a_frame_is_stored_once_in_a_segment(demo_file: Path) -> None:
    segment = loader.LiftDataset(demo_file, ["demo_0"], 1, 8)[2]
    assert len(segment.frames) == T + 8 - 1
    assert sorted(set(segment.windows.flatten().tolist())) == list(range(len(segment.frames)))


def test_positions_are_cube_minus_gripper_in_decimetres(demo_file: Path) -> None:
    segment = loader.LiftDataset(demo_file, ["demo_0"], 5, 1)[3]
    with h5py.File(demo_file) as file:
        demo = file["data/demo_0"]
        expected = 10 * (demo["obs/cube_pos"][15] - demo["obs/robot0_eef_pos"][15])
    np.testing.assert_allclose(segment.positions[-1, :3], expected, rtol=1e-5)
    assert 0.3 < segment.positions[-1, 3] < 0.85  # finger opening in decimetres


def test_collate_keeps_windows_on_their_own_frames(demo_file: Path) -> None:
    dataset = loader.LiftDataset(demo_file, ["demo_0", "demo_2"], 5, 3)
    segments = [dataset[0], dataset[4], dataset[len(dataset) - 1]]
    batch = loader.collate(segments)
    row = 0
    for number, segment in enumerate(segments):
        for window, instruction in zip(segment.windows, segment.instructions, strict=True):
            np.testing.assert_array_equal(batch.frames[batch.windows[row]], segment.frames[window])
            assert (batch.segments[batch.windows[row]] == number).all()
            assert batch.instructions[row] == instruction
            row += 1
    assert row == len(batch.actions) == len(batch.mask)


def test_order_is_drawn_from_its_own_generator(demo_file: Path) -> None:
    dataset = loader.LiftDataset(demo_file, ["demo_0"], 5, 2)

    def actions(order: torch.Generator | None) -> torch.Tensor:
        return torch.cat([batch.actions for batch in loader.make_loader(dataset, 2, order)])

    in_order = actions(None)
    shuffled = actions(torch.Generator().manual_seed(1))
    assert torch.equal(shuffled, actions(torch.Generator().manual_seed(1)))
    assert not torch.equal(shuffled, in_order)
    torch.testing.assert_close(shuffled.sum(dim=0), in_order.sum(dim=0))


def test_frames_are_kept_as_the_region_of_interest_and_prepared_as_in_control(demo_file: Path) -> None:
    spec = ImageSpec(size_px=64, crop_top=20 / 224, crop_left=48 / 224, crop_size=128 / 224)
    segment = loader.LiftDataset(demo_file, ["demo_0"], 5, 3, 1, 10, spec, margin_px=2)[1]
    assert segment.frames.shape == (11, 132, 132, 3)
    with h5py.File(demo_file) as file:
        whole = torch.from_numpy(file["data/demo_0/images"][15:26])
    assert torch.equal(prepare_regions(segment.frames, spec, 2), prepare(whole, spec))


def test_margin_beyond_the_picture_repeats_its_edge() -> None:
    picture = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4, 1)
    widened = cut(picture, ImageSpec(), margin_px=1)[0, :, :, 0]
    assert widened[0].tolist() == [0, 0, 1, 2, 3, 3]
    assert widened[:, 0].tolist() == [0, 0, 4, 8, 12, 12]


def test_exclusion_list(demo_file: Path, tmp_path: Path) -> None:
    listed = tmp_path / "exclude.txt"
    listed.write_text("demo_1\n\n")
    with h5py.File(demo_file) as file:
        assert loader.selected_names(file, None, listed) == ["demo_0", "demo_2"]
        listed.write_text("demo_9\n")
        with pytest.raises(UserError, match="demo_9"):
            loader.selected_names(file, None, listed)
        with pytest.raises(UserError, match="no such file"):
            loader.selected_names(file, None, tmp_path / "none.txt")


def test_unsuccessful_episodes_are_left_out(demo_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.hdf5"
    copy.write_bytes(demo_file.read_bytes())
    with h5py.File(copy, "a") as file:
        file["data/demo_0"].attrs["success"] = False
        del file["index"]
    dataset = loader.LiftDataset(copy, ["demo_0", "demo_1"])
    assert {name for name, _ in dataset.segments} == {"demo_1"}
    with pytest.raises(UserError, match="no successful episode"):
        loader.LiftDataset(copy, ["demo_0"])


def test_prepare_normalises_with_imagenet_statistics() -> None:
    image = torch.full((1, 224, 224, 3), 128, dtype=torch.uint8)
    prepared = prepare(image, ImageSpec())
    assert prepared.shape == (1, 3, 224, 224)
    expected = (128 / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(prepared[0, :, 100, 100], expected)


def test_region_of_interest_is_cut_at_the_cameras_resolution() -> None:
    image = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    spec = ImageSpec(size_px=128, crop_top=20 / 224, crop_left=48 / 224, crop_size=128 / 224)
    cut = prepare(image, spec)
    whole = prepare(image, ImageSpec())
    torch.testing.assert_close(cut, whole[:, :, 20:148, 48:176])
    assert prepare(image, ImageSpec(size_px=96)).shape == (1, 3, 96, 96)
    with pytest.raises(UserError):
        ImageSpec(crop_top=0.6, crop_size=0.5)


def test_augmentation_changes_images_a_little_and_repeatably(demo_file: Path) -> None:
    change = Augmentation()
    margin = change.margin_px(224)
    segment = loader.LiftDataset(demo_file, ["demo_0"], 1, 4, margin_px=margin)[3]
    ids = torch.zeros(len(segment.frames), dtype=torch.int64)

    def augmented(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return prepare_augmented(segment.frames, ids, ImageSpec(), change, margin, generator)

    plain = prepare_regions(segment.frames, ImageSpec(), margin)
    assert margin == 1
    assert augmented(0).shape == plain.shape == (len(ids), 3, 224, 224)
    assert torch.equal(augmented(0), augmented(0))
    assert not torch.equal(augmented(0), augmented(1))
    still = Augmentation(max_shift=0, max_brightness=0, max_contrast=0)
    whole = segment.frames[:, margin:-margin, margin:-margin]
    same = prepare_augmented(whole, ids, ImageSpec(), still, 0, torch.Generator())
    torch.testing.assert_close(same, plain)


def test_one_draw_for_each_segment(demo_file: Path) -> None:
    frame = loader.LiftDataset(demo_file, ["demo_0"], 1, 1, 1, margin_px=3)[0].frames
    ids = torch.tensor([0, 0, 1])
    shifted = Augmentation(max_shift=3 / 224)
    prepared = prepare_augmented(frame.repeat(3, 1, 1, 1), ids, ImageSpec(), shifted, 3, torch.Generator())
    assert torch.equal(prepared[0], prepared[1])
    assert not torch.equal(prepared[0], prepared[2])
