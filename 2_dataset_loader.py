"""The dataset of demonstrations as training batches (report sec. 4.1, 4.5.1), and its inspection.

Run alone, checks the HDF5 file, prints Table 2 and writes a page in which a person can verify every episode (sec. 7.5):
data/inspection/index.html. The boxes ticked there make a text file of the names of bad episodes, one to a line;
`--exclude` leaves them out, here and in 4_train.py.

--merge joins files that were collected apart into a new one. --migrate brings a file of an older schema to the present
one. --import reads demonstrations of robomimic: they can be looked at here and trained on, but not judged.

    python 2_dataset_loader.py --data data/lift_demos.hdf5
    python 2_dataset_loader.py --merge one.hdf5 two.hdf5 --output both.hdf5
    python 2_dataset_loader.py --migrate old.hdf5 --output new.hdf5
    python 2_dataset_loader.py --import image_84.hdf5 --output data/imported.hdf5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import h5py
import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, RandomSampler
from tqdm import tqdm

from vla.demos.dataset_table import OBSERVATION_HORIZON, WINDOW_STRIDE, dataset_table, window_count
from vla.demos.frames import Frames, FramesInMemory
from vla.demos.hdf5_checks import attribute_text
from vla.demos.importing import import_robomimic
from vla.demos.index import read_index
from vla.demos.inspection import check_episodes, inspect_file
from vla.demos.inspection_page import write_page
from vla.demos.merging import merge_files
from vla.demos.migration import migrate_file
from vla.demos.schema import checked_demo, checked_demos, demo_array, demo_names, open_demos, scene_of
from vla.demos.source import Source
from vla.errors import UserError, run_script
from vla.policies.asking import Asker
from vla.policies.batch import Batch, Segment
from vla.policies.located import located_numbers
from vla.policies.network import Locates
from vla.policies.preprocess import ImageSpec, cut, cut_shape, proprioception
from vla.sim.config import warn_of_version_drift
from vla.sim.engines import default_workers
from vla.sim.table import TableLayout

CHUNK_SIZE = 10
"""K, actions that follow a window."""


class LiftDataset(Dataset[Segment]):
    """Windows over successful episodes, grouped into segments of neighbouring windows.

    A window holds the T observations up to the present one (the first frame repeated at an episode's start) and
    the K actions that follow it. Neighbouring windows share most of their frames, so a segment serves them together
    and each frame is encoded once.

    All frames are decoded once, cut to the region of interest (0.05 MB each for the `cpu` recipe), and kept where there
    is room for them (`vla.demos.frames`).
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        stride: int = WINDOW_STRIDE,
        windows_per_segment: int = 1,
        observation_horizon: int = OBSERVATION_HORIZON,
        chunk_size: int = CHUNK_SIZE,
        image: ImageSpec | None = None,
        margin_px: int = 0,
        locates: Locates = "target",
        asker: Asker | None = None,
        frames: Frames | None = None,
        hold_stride: int = 1,
    ) -> None:
        """Decode the episodes `names` of the file at `path`.

        Args:
            stride: steps between the ends of successive windows.
            windows_per_segment: neighbouring windows that are served together.
            observation_horizon: T.
            chunk_size: K.
            image: the region of interest; None for the whole picture.
            margin_px: pixels kept around the region, for the augmentation's shift.
            locates: the cubes whose positions are given: the target's, or those that instructions can name.
            asker: draws other instructions that ask for the same; None: those of the demonstrations stay.
            frames: where the decoded frames go, beside others; None: in memory.
            hold_stride: of the windows that end in the phase "hold", every how many-th is served.

        Raises:
            UserError: none of the episodes succeeded, they know of one cube only and `locates` asks for more, or their
                pictures differ in size.
        """
        self.observation_horizon = observation_horizon
        self.chunk_size = chunk_size
        self.asker = asker
        self.segments: list[tuple[str, list[int]]] = []
        self._episodes: dict[str, _Episode] = {}
        with open_demos(path, imported=True) as file:
            index = read_index(file)
            chosen = [name for name in names if index[name].success]
            if not chosen:
                raise UserError(f"{path}: no successful episode among the {len(names)} selected; see --exclude")
            spec = image or ImageSpec()
            if frames is None:
                count, picture = frame_count(file, chosen)
                frames = FramesInMemory(count, cut_shape(picture, spec, margin_px))
            self._frames = frames
            demos = checked_demos(file, chosen)
            for name, demo in tqdm(demos, total=len(chosen), unit="episode", desc="decode", leave=False, disable=None):
                first_frame = frames.append(cut(torch.from_numpy(demo_array(demo, "images")), spec, margin_px))
                episode = self._episodes[name] = _read_episode(demo, first_frame, locates)
                ends = _window_ends(demo, len(episode.actions), stride, hold_stride)
                for first in range(0, len(ends), windows_per_segment):
                    self.segments.append((name, ends[first : first + windows_per_segment]))

    def __len__(self) -> int:
        return len(self.segments)

    def window_count(self) -> int:
        """Number of windows in all segments."""
        return sum(len(ends) for _, ends in self.segments)

    def __getitem__(self, index: int) -> Segment:
        name, ends = self.segments[index]
        episode = self._episodes[name]
        first, last = max(0, ends[0] - self.observation_horizon + 1), ends[-1]
        actions = episode.actions[ends[0] : last + self.chunk_size]
        history = np.arange(-self.observation_horizon + 1, 1)
        windows = np.maximum(np.array(ends)[:, None] + history, 0) - first
        future = np.array(ends)[:, None] - ends[0] + np.arange(self.chunk_size)
        mask = future < len(actions)
        instruction = episode.instruction
        if self.asker is not None:
            instruction = self.asker.again(instruction, episode.layout, episode.target)
        return Segment(
            frames=self._frames.read(episode.first_frame + first, episode.first_frame + last + 1),
            windows=torch.from_numpy(windows),
            actions=torch.from_numpy(actions[np.minimum(future, len(actions) - 1)]),
            mask=torch.from_numpy(mask),
            positions=torch.from_numpy(episode.positions[first : last + 1]),
            present=None if episode.present is None else torch.from_numpy(episode.present).expand(last + 1 - first, -1),
            named=torch.from_numpy(episode.named[ends]),
            proprioception=torch.from_numpy(episode.proprioception[first : last + 1]),
            instructions=[instruction] * len(ends),
        )


class _Episode(NamedTuple):
    """A decoded episode of L steps; the fields are those of `Segment`."""

    first_frame: int
    """Its number among all frames."""
    actions: np.ndarray
    """(L, 7)."""
    positions: np.ndarray
    present: np.ndarray | None
    """(M,)."""
    named: np.ndarray
    """(L, 4)."""
    proprioception: np.ndarray
    instruction: str
    layout: TableLayout | None
    target: int | None


def frame_count(file: h5py.File, names: Sequence[str]) -> tuple[int, tuple[int, ...]]:
    """Number of frames of the demonstrations `names`, which are not none, and the shape of the first, (H, W, 3)."""
    index = read_index(file)
    return sum(index[name].length for name in names), checked_demo(file, names[0])["images"].shape[1:]


def _window_ends(demo: h5py.Group, length: int, stride: int, hold_stride: int) -> list[int]:
    """The steps at which windows end; an imported demonstration has no phases, so that nothing of it is left out."""
    ends = np.arange(0, length, stride)
    if hold_stride == 1 or "phases" not in demo:
        return list(ends)
    is_hold = demo_array(demo, "phases")[ends] == b"hold"
    return list(ends[~is_hold | (np.cumsum(is_hold) % hold_stride == 0)])


def _read_episode(demo: h5py.Group, first_frame: int, locates: Locates) -> _Episode:
    """Read all of an episode but its frames, which are there already."""
    gripper, fingers = demo_array(demo, "obs/robot0_eef_pos"), demo_array(demo, "obs/robot0_gripper_qpos")
    cubes, present = _cube_positions(demo, locates)
    layout, target = scene_of(demo)
    offsets = (cubes - gripper[:, None]).reshape(len(cubes), -1)  # (L, 3 M)
    positions = np.column_stack([offsets, fingers[:, 0] - fingers[:, 1]]) * 10
    return _Episode(
        first_frame=first_frame,
        actions=demo_array(demo, "actions"),
        positions=positions.astype(np.float32),
        present=present,
        named=_named_offsets(demo, gripper),
        proprioception=proprioception(gripper, fingers),
        instruction=attribute_text(demo.attrs["language_instruction"]),
        layout=layout,
        target=target,
    )


def _cube_positions(demo: h5py.Group, locates: Locates) -> tuple[np.ndarray, np.ndarray | None]:
    """Centres of the cubes that the auxiliary head locates, (L, M, 3) metres, and which of them there are, (M,)."""
    layout, target = scene_of(demo)
    if locates == "named":
        return np.zeros((len(demo["actions"]), 0, 3)), np.zeros(0, dtype=bool)
    if locates == "target" and "obs/cube_pos" not in demo:  # imported: nothing says where the cube is
        return np.zeros((len(demo["actions"]), 1, 3)), np.zeros(1, dtype=bool)
    if locates == "target":
        present = None if layout is None else np.array([target is not None])
        return demo_array(demo, "obs/cube_pos")[:, None], present
    if layout is None:
        raise UserError(
            f"{demo.file.filename} holds the scene lift, with one cube, and several are to be located; collect others "
            "with: python 1_collect_demos.py --scene cubes"
        )
    numbers = located_numbers(layout)
    cubes: np.ndarray = demo_array(demo, "obs/cubes_pos")[:, [number or 0 for number in numbers]]
    return cubes, np.array([number is not None for number in numbers])


def _named_offsets(demo: h5py.Group, gripper: np.ndarray) -> np.ndarray:
    """Row of `Segment.named` at every step, (L, 4)."""
    _, target = scene_of(demo)
    if target is None or "obs/cube_pos" not in demo:
        return np.zeros((len(gripper), 4), dtype=np.float32)
    offsets = 10 * (demo_array(demo, "obs/cube_pos") - gripper)
    return np.column_stack([offsets, np.ones(len(offsets))]).astype(np.float32)


def collate(segments: list[Segment]) -> Batch:
    """Join segments into a batch, whose windows point into the joined frames."""
    offsets = np.cumsum([0] + [len(segment.frames) for segment in segments[:-1]])
    return Batch(
        frames=torch.cat([segment.frames for segment in segments]),
        segments=torch.cat([torch.full((len(segment.frames),), i) for i, segment in enumerate(segments)]),
        windows=torch.cat([segment.windows + int(start) for segment, start in zip(segments, offsets, strict=True)]),
        actions=torch.cat([segment.actions for segment in segments]),
        mask=torch.cat([segment.mask for segment in segments]),
        positions=torch.cat([segment.positions for segment in segments]),
        present=_joined([segment.present for segment in segments]),
        named=torch.cat([segment.named for segment in segments]),
        proprioception=torch.cat([segment.proprioception for segment in segments]),
        instructions=[instruction for segment in segments for instruction in segment.instructions],
    )


def _joined(present: list[Tensor | None]) -> Tensor | None:
    known = [part for part in present if part is not None]
    return torch.cat(known) if known else None


def make_loader(
    dataset: LiftDataset | ConcatDataset[Segment],
    batch_segments: int,
    order: torch.Generator | None = None,
    pin_memory: bool = False,
) -> DataLoader[Segment]:
    """Batches of `batch_segments` segments, served without loading processes.

    Args:
        order: generator of a random order, used for nothing else; None keeps the dataset's order.
        pin_memory: copy batches to page-locked memory, for a GPU.
    """
    return DataLoader(
        dataset,
        batch_size=batch_segments,
        sampler=None if order is None else RandomSampler(dataset, generator=order),
        collate_fn=collate,
        pin_memory=pin_memory,
    )


def selected_names(file: h5py.File, split: str | None, exclude: Path | None) -> list[str]:
    """Names of the demonstrations of a split ('train', 'valid', None for all) without those on the exclusion list.

    Raises:
        UserError: the list is missing, names an episode that the file does not hold, or names all of them.
    """
    excluded: set[str] = set()
    held = demo_names(file)
    if exclude is not None:
        if not exclude.is_file():
            raise UserError(f"--exclude {exclude}: no such file; write one demonstration name (demo_3) to a line")
        excluded = {line.strip() for line in exclude.read_text().splitlines() if line.strip()}
        unknown = excluded - set(held)
        if unknown:
            raise UserError(f"--exclude {exclude} names {sorted(unknown)}, which the file does not hold")
    if excluded >= set(held):
        raise UserError(f"--exclude {exclude} names all {len(held)} episodes; keep some")
    return [name for name in demo_names(file, split) if name not in excluded]


@dataclass(frozen=True)
class InspectOptions:
    """Options of the inspection."""

    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    output_dir: Path = Path("data/inspection")
    """Folder in which the page, index.html, is written."""
    exclude: Path | None = None
    """Text file with the names of episodes to leave out, one to a line. The page shows them with a ticked box."""
    merge: tuple[Path, ...] | None = None
    """Files of demonstrations to join instead, in this order. They must come from one simulator and have no seed in
    common; each demonstration stays on its side of the split."""
    migrate: Path | None = None
    """File of an older schema to bring to the present one instead: every demonstration is simulated again, and those
    that do not repeat, or do not pass the present verdict, are left out and named."""
    import_: Annotated[Path | None, tyro.conf.arg(name="import")] = None
    """HDF5 file of robomimic, robosuite's Lift with images, to read instead. What it lacks is printed; the split is its
    own, or the last tenth is for validation."""
    instruction: str = "Pick up the cube"
    """Instruction of all demonstrations of --import, which have none."""
    output: Path | None = None
    """New file for --merge, --migrate or --import."""
    workers: int = field(default_factory=default_workers)
    """Simulator processes of --migrate."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers must be at least 1, got {self.workers}")
        if not self.instruction.strip():
            raise UserError("--instruction must not be empty")
        if self.migrate is not None:
            if self.output is None or self.merge is not None or self.import_ is not None:
                raise UserError(
                    "--migrate needs --output, a new file for the demonstrations, and no --merge or --import"
                )
        elif self.import_ is not None:
            if self.output is None or self.merge is not None:
                raise UserError("--import needs --output, a new file for the demonstrations, and no --merge")
        elif (self.output is None) != (self.merge is None) or (self.merge is not None and len(self.merge) < 2):
            raise UserError("--merge needs at least two files, and --output a new one for them")


def main(options: InspectOptions) -> None:
    if options.migrate is not None and options.output is not None:
        migrate_file(options.migrate, options.output, options.workers)
        return
    if options.import_ is not None and options.output is not None:
        print(import_robomimic(options.import_, options.output, options.instruction))
        return
    if options.merge is not None and options.output is not None:
        count = merge_files(options.merge, options.output)
        print(f"{options.output}: {count} demonstrations of {len(options.merge)} files")
        return
    page = options.output_dir / "index.html"
    with open_demos(options.data, imported=True) as file:
        warn_of_version_drift(file["data"].attrs["env_args"], str(options.data))
        print(dataset_table(file, options.data))
        index = read_index(file)
        for split in ("train", "valid"):
            chosen = selected_names(file, split, options.exclude)
            windows = sum(window_count(index[name].length) for name in chosen)
            print(f"{split}: {len(chosen)} episodes, {windows} windows (stride {WINDOW_STRIDE})")
        source = Source.of(file)
        episodes = inspect_file(file, selected_names(file, None, options.exclude))
        write_page(page, options.data, file, episodes)
    check_episodes(episodes, options.data, page, source)
    print(f"open {page} in a browser; the boxes that you tick there make a list for --exclude")


if __name__ == "__main__":
    run_script(main, InspectOptions, __doc__, "run the same command again; --migrate continues, all else starts over")
