"""The HDF5 file of demonstrations: how it is written, checked and read.

The layout is the report's (sec. 3.5), extended by what replay and audit need, and a superset of robomimic's.
docs/dataset.md describes every key.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla.demos.demo_checks import check_demo, check_split_and_origin, is_demo_name
from vla.demos.hdf5_checks import Shape, UnsafeFileError, attribute_text, check_attributes, check_links, read
from vla.demos.index import INDEX, check_index, check_row, read_index
from vla.demos.source import IMPORTED, IMPORTED_ATTRIBUTES, IMPORTED_KEYS, Source
from vla.errors import UserError
from vla.judging.bystanders import Bystanders, CubeStates, judge_obedience
from vla.judging.evidence import MEASURED, Evidence
from vla.judging.verdict import Judge, Verdict
from vla.sim.config import ACTION_DIM, EnvConfig, SceneKind
from vla.sim.table import TableLayout

SCHEMA_VERSION = 5
OLDER_VERSIONS = (3, 4)
"""Schemas that `vla.demos.migration` brings to the present one. 3 lacks the start's evidence, and some of the steps'; 4
was measured by other rules, and its demonstrations end one step before their hold has lasted a full second."""
DEMO_FILES: dict[SceneKind, Path] = {"lift": Path("data/lift_demos.hdf5"), "cubes": Path("data/cubes_demos.hdf5")}
"""Where the demonstrations of a scene are by default."""
NO_TARGET = -1
"""The attribute `target` of an episode in which no cube was to be moved."""

IMAGE_CHUNK = (16, 28, 28, 3)
"""Frames, rows, columns and channels of a compressed chunk. gzip is the one strong filter that every h5py can read, and
its window is 32 KiB: in a chunk of 16 frames of one 28x28 tile (37 KiB), it still sees the tile of the previous frame,
and most tiles never change."""
GZIP_LEVEL = 9
IMAGE_SUFFIX = "_image"
"""End of robomimic's name of a camera's images among the observations."""

_ARRAYS = ("images", "actions", "executed_actions", "rewards", "states", "phases", "sources")
_DEMO_KEYS = (*_ARRAYS, "obs/cube_pos", "obs/robot0_eef_pos", "obs/robot0_gripper_qpos", "evidence", "start_evidence")
_AXES: dict[str, Shape] = {
    "images": (None, None, 3),
    "actions": (ACTION_DIM,),
    "executed_actions": (ACTION_DIM,),
    "rewards": (),
    "states": (None,),
    "phases": (),
    "sources": (),
    "obs/cube_pos": (3,),
    "obs/cubes_pos": (None, 3),
    "obs/robot0_eef_pos": (3,),
    "obs/robot0_gripper_qpos": (2,),
}
"""Axes of the arrays of a demonstration, after that of its steps; of the others, any."""
_DEMO_ATTRIBUTES = ("language_instruction", "success", "episode_length", "seed")


@dataclass(frozen=True)
class BareDemo:
    """What every demonstration of T control steps holds, an imported one too: row t of every array is of step t."""

    instruction: str
    images: np.ndarray
    """(T, H, W, 3) uint8 RGB, before the action."""
    actions: np.ndarray
    """(T, 7) float32 in [-1, 1], the expert's action without noise: what to imitate."""
    observations: Mapping[str, np.ndarray]
    """Low-dimensional observations before the action, (T, n) each, under robomimic's names."""

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class Demo(BareDemo):
    """A demonstration that was recorded here: it can be replayed, and judged again."""

    seed: int
    executed_actions: np.ndarray
    """(T, 7) float32 in [-1, 1], the action that was executed, noise included: what to replay."""
    rewards: np.ndarray
    """(T,) float32, robosuite's shaped reward after the action."""
    states: np.ndarray
    """(T, 1 + nq + nv) float64, simulator state before the action."""
    phases: np.ndarray
    """(T,) bytes, the expert's phase (`vla.experts.scripted.PHASES`)."""
    sources: np.ndarray
    """(T,) bytes, who chose the executed action (`vla.sim.rollout.Decision.source`)."""
    evidence: Mapping[str, np.ndarray]
    """The measured fields of `vla.judging.evidence.Evidence` after the action, (T, ...) each. No demonstration has an
    undeclared change of the world: the episode would be INVALID."""
    start_evidence: Evidence
    """Evidence of the state that the episode began in."""
    layout: TableLayout | None = None
    """What lay on the table at the start; None: one cube, in the scene "lift". Otherwise `observations["cubes_pos"]`,
    (T, N, 3), has the centres of its N cubes before the action."""
    target: int | None = 0
    """Number of the cube in `layout` that the instruction names; None: no cube was to be moved."""

    def verdict(self) -> Verdict:
        """Judge the whole episode again, from its evidence and from the places of its cubes."""
        *_, judge = self.judges()
        if self.layout is None:
            return judge.verdict()
        places = self.observations["cubes_pos"]
        untouched = np.zeros(places.shape[1], dtype=bool)  # which cube a finger touched is not recorded, nor judged
        followed = Bystanders.of(CubeStates(pos, pos[:, 2] - places[0, :, 2], untouched) for pos in places)
        valid = judge.invalid_reason is None
        return judge_obedience(judge.verdict(), valid, followed, self.target, self.layout.describe)

    def judges(self) -> Iterator[Judge]:
        """Judge the recorded evidence again; yields the judge after each step, always the same object."""
        judge = Judge()
        judge.start(self.start_evidence)
        for row in range(len(self)):
            judge.update(Evidence(**{name: column[row] for name, column in self.evidence.items()}))
            yield judge


def write_demo(group: h5py.Group, demo: Demo, model_xml: str) -> None:
    """Write one demonstration into an empty group; `model_xml` is the MuJoCo model of its scene."""
    write_images(group, demo.images)
    for name in _ARRAYS:
        if name != "images":
            group.create_dataset(name, data=getattr(demo, name))
    dones = np.zeros(len(demo), dtype=np.uint8)
    dones[-1] = 1
    group.create_dataset("dones", data=dones)
    for name, values in demo.observations.items():
        group.create_dataset(f"obs/{name}", data=values)
    for name, values in demo.evidence.items():
        group.create_dataset(f"evidence/{name}", data=values)
    for name in MEASURED:
        group.create_dataset(f"start_evidence/{name}", data=getattr(demo.start_evidence, name))
    group.attrs["language_instruction"] = demo.instruction
    group.attrs["success"] = True
    group.attrs["episode_length"] = len(demo)
    group.attrs["num_samples"] = len(demo)
    group.attrs["seed"] = demo.seed
    group.attrs["model_file"] = model_xml
    if demo.layout is not None:
        group.attrs["layout"] = demo.layout.to_json()
        group.attrs["target"] = NO_TARGET if demo.target is None else demo.target


def write_images(group: h5py.Group, images: np.ndarray, camera: str = EnvConfig.camera) -> None:
    """Write the images of a demonstration, (T, H, W, 3) uint8 of this camera, into its group."""
    chunk = tuple(min(size, limit) for size, limit in zip(images.shape, IMAGE_CHUNK, strict=True))
    group.create_dataset("images", data=images, chunks=chunk, compression="gzip", compression_opts=GZIP_LEVEL)
    group[f"obs/{camera}{IMAGE_SUFFIX}"] = group["images"]  # a hard link: robomimic's name at no cost


def demo_array(group: h5py.Group, name: str) -> np.ndarray:
    """Read an array of a demonstration: a row for each step, and all numbers finite.

    Raises:
        UserError: it is none, or cannot be read.
    """
    return read(group, name, (int(group.attrs["episode_length"]), *_AXES.get(name, (...,))))


def read_bare_demo(group: h5py.Group, with_images: bool = True) -> BareDemo:
    """Read what every demonstration holds into memory; without images, the array of these has no rows.

    Raises:
        UserError: an array of it cannot be used.
    """
    return BareDemo(
        instruction=attribute_text(group.attrs["language_instruction"]),
        images=_images(group, with_images),
        actions=demo_array(group, "actions"),
        observations=_observations(group),
    )


def read_demo(group: h5py.Group, with_images: bool = True) -> Demo:
    """Read all of one demonstration, which was recorded here, into memory; without images, as `read_bare_demo`.

    Raises:
        UserError: an array of it cannot be used.
    """
    start: dict[str, Any] = {name: read(group, f"start_evidence/{name}")[()] for name in MEASURED}
    layout, target = scene_of(group)
    return Demo(
        images=_images(group, with_images),
        layout=layout,
        target=target,
        instruction=attribute_text(group.attrs["language_instruction"]),
        seed=int(group.attrs["seed"]),
        observations=_observations(group),
        evidence={name: demo_array(group, f"evidence/{name}") for name in MEASURED},
        start_evidence=Evidence(**start),
        **{name: demo_array(group, name) for name in _ARRAYS if name != "images"},
    )


def _images(group: h5py.Group, wanted: bool) -> np.ndarray:
    return demo_array(group, "images") if wanted else np.zeros((0, *group["images"].shape[1:]), dtype=np.uint8)


def _observations(group: h5py.Group) -> dict[str, np.ndarray]:
    return {name: demo_array(group, f"obs/{name}") for name in group["obs"] if not name.endswith(IMAGE_SUFFIX)}


def scene_of(group: h5py.Group) -> tuple[TableLayout | None, int | None]:
    """What lay on the table at the start of a demonstration, and its target, as in `Demo`.

    Raises:
        UserError: its attributes say neither.
    """
    layout, target = group.attrs.get("layout"), group.attrs.get("target", 0)
    try:
        known = None if layout is None else TableLayout.from_json(attribute_text(layout))
        if target not in range(NO_TARGET, 1 if known is None else len(known.cubes)):
            raise ValueError("no such cube")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        name = group.name.strip("/")
        raise UnsafeFileError(f"{group.file.filename}: {name} does not say what lies on its table: {error}") from None
    return known, None if target == NO_TARGET else int(target)


def is_collected(path: Path) -> bool:
    """Whether the collection wrote this file, in any version of the schema; False for a file that cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            check_links(file, recursive=False)
            data = file.get("data")
            return data is not None and {"schema_version", "collection"} <= set(data.attrs)
    except (OSError, UnsafeFileError):
        return False


def move_away_command(path: Path) -> str:
    """Shell command that renames a file, without replacing another one."""
    return f"mv -n {shlex.quote(str(path))} {shlex.quote(f'{path}.old')}"


@contextlib.contextmanager
def open_demos(path: Path, versions: Sequence[int] = (SCHEMA_VERSION,), imported: bool = False) -> Iterator[h5py.File]:
    """Open a demonstration file that has been checked; what `vla.demos.hdf5_checks` refuses later is reported, too.

    Its demonstrations are read through `checked_demos`.

    Args:
        path: the file.
        versions: schemas that the caller reads.
        imported: whether the caller does without what an imported demonstration lacks (see `IMPORTED_KEYS`).

    Raises:
        UserError: the file is missing, truncated, of another schema, imported, or holds no whole demonstrations.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise UserError(f"no demonstrations at {path}; collect them with: {_collect_command(path)}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole HDF5 file ({reason}); {_collect_again(path)}") from None
    with file:
        try:
            _check_schema(file, path, versions)
            source = Source.of(file)
            if source is not None and not imported:
                raise UserError(
                    f"{path} was imported ({source}) and lacks what this needs: {', '.join(missing_parts())}; it can "
                    "be inspected and trained on (2_dataset_loader.py, 4_train.py). docs/adapt.md says how "
                    "demonstrations are recorded in this simulator"
                )
            yield file
        except UnsafeFileError as error:
            raise UserError(f"{error}; {_collect_again(path)}") from None


def _collect_again(path: Path) -> str:
    """Remedy for a broken file. It never overwrites the file, which may be the only copy of somebody's data."""
    return f"move it away ({move_away_command(path)}) and collect anew: {_collect_command(path)}"


def _collect_command(path: Path) -> str:
    scene = " --scene cubes" if path.name == DEMO_FILES["cubes"].name else ""
    return f"python 1_collect_demos.py{scene} --output {path}"


def _migrate_command(path: Path) -> str:
    """Shell command that writes a file of the present schema beside an older one."""
    output = path.with_name(f"{path.stem}_schema{SCHEMA_VERSION}{path.suffix}")
    return f"python 2_dataset_loader.py --migrate {shlex.quote(str(path))} --output {shlex.quote(str(output))}"


def _check_schema(file: h5py.File, path: Path, versions: Sequence[int]) -> None:
    check_links(file, recursive=False)
    data = file.get("data")
    if not isinstance(data, h5py.Group) or "schema_version" not in data.attrs:
        raise UserError(
            f"{path} is not a file of 1_collect_demos.py: it has no schema version; "
            "give one that it wrote, read one of robomimic's with 2_dataset_loader.py --import, or make one with: "
            "python 1_collect_demos.py --output ANOTHER_FILE"
        )
    remedy = _collect_again(path)
    check_attributes(data)
    found = data.attrs["schema_version"]
    if found not in versions:
        if found in OLDER_VERSIONS:
            remedy = f"migrate it: {_migrate_command(path)}"
        elif found == SCHEMA_VERSION:
            remedy = "it needs no migration"
        wanted = " or ".join(map(str, versions))
        raise UserError(f"{path} has schema version {str(found)[:20]}, {wanted} is needed; {remedy}")
    if len(data) == 0:
        raise UserError(f"{path} holds no episodes; {remedy}")
    imported = IMPORTED in data.attrs
    missing = [key for key in ("mask/train", "mask/valid") if key not in file]
    wanted_of_all = ("env_args",) if imported else ("env_args", "collection", "rejected")
    missing += [key for key in wanted_of_all if key not in data.attrs]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {remedy}")
    check_split_and_origin(file)
    if INDEX in file:
        check_index(file)
        return
    required = _required(file)
    for name in data:
        _check_demo(file, name, required)


def checked_demos(file: h5py.File, names: Iterable[str]) -> Iterator[tuple[str, h5py.Group]]:
    """Names and groups of demonstrations that have been checked: each here if the file has an index, or all on opening.

    Args:
        file: one that `open_demos` opened; in a worker, one that it opened in the process that knows the names.
        names: names of its demonstrations.

    Raises:
        UserError: one is no whole demonstration, or another one than the index says.
    """
    data = file["data"]
    if INDEX not in file:
        yield from ((name, data[name]) for name in names)
        return
    rows, required = read_index(file), _required(file)
    for name in names:
        _check_demo(file, name, required)
        check_row(data[name], name, rows)
        yield name, data[name]


def checked_demo(file: h5py.File, name: str) -> h5py.Group:
    """The group of one demonstration, as from `checked_demos`, which is faster for many."""
    ((_, demo),) = checked_demos(file, [name])
    return demo


def _required(file: h5py.File) -> tuple[Sequence[str], Sequence[str]]:
    """Arrays and attributes that every demonstration of a file has."""
    attributes = file["data"].attrs
    if IMPORTED in attributes:
        return IMPORTED_KEYS, IMPORTED_ATTRIBUTES
    return _ARRAYS if attributes["schema_version"] in OLDER_VERSIONS else _DEMO_KEYS, _DEMO_ATTRIBUTES


def _check_demo(file: h5py.File, name: str, required: tuple[Sequence[str], Sequence[str]]) -> None:
    demo = file["data"][name]
    if not isinstance(demo, h5py.Group) or not is_demo_name(name):
        raise UnsafeFileError(f"{file.filename}: {name[:80]!r} is no demonstration")
    arrays, attributes = required
    held = check_links(demo)
    missing = [key for key in arrays if key not in held]
    missing += [key for key in attributes if key not in demo.attrs]
    if missing:
        raise UnsafeFileError(f"{file.filename}: {name} lacks {', '.join(missing)}")
    check_demo(demo)


def missing_parts() -> list[str]:
    """Names of what a demonstration holds and an imported one lacks."""
    keys = [key for key in _DEMO_KEYS if key not in IMPORTED_KEYS]
    return keys + [name for name in _DEMO_ATTRIBUTES if name not in IMPORTED_ATTRIBUTES]


def demo_names(file: h5py.File, split: str | None = None) -> list[str]:
    """Names of the demonstrations in order: those of a split, 'train' or 'valid', or all (None)."""
    names = [name.decode() for name in file[f"mask/{split}"][:]] if split else list(file["data"])
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def collection_rounds(file: h5py.File) -> list[dict[str, Any]]:
    """Settings of each round in which the file was collected: the first, then those of DAgger."""
    rounds: list[dict[str, Any]] = json.loads(file["data"].attrs["collection"])
    return rounds
