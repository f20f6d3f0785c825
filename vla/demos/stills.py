"""The HDF5 file of stills: single moments of the scene "cubes", with the expert's action for every cube on the table.

Demonstrations show long courses of action on few tables. A still costs one picture, and each shows another table. It
says what the expert would do next whichever cube is named, so that training can ask for any of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla.demos.demo_checks import MOST_PIXELS
from vla.demos.hdf5_checks import (
    UnsafeFileError,
    array,
    attribute_text,
    check_attributes,
    check_links,
    read,
    read_texts,
)
from vla.demos.schema import move_away_command
from vla.errors import UserError
from vla.files import atomic_path, sha256
from vla.sim.config import ACTION_DIM, CUBES, check_env_args
from vla.sim.table import TableLayout

STILLS_VERSION = 1
COLLECT_STILLS = "python 1_collect_demos.py --scene cubes --num-episodes 320 --stills 20000"
_GZIP_LEVEL = 1
"""The pictures have nothing in common but the table: a higher level costs time and saves little."""
_READ_TOGETHER = 500
_ARRAYS = ("images", "cubes_pos", "eef_pos", "gripper_qpos", "expert_actions")


@dataclass(frozen=True)
class Stills:
    """N stills; row i of every array belongs to still i."""

    images: np.ndarray
    """(N, H, W, 3) uint8 RGB."""
    layouts: list[TableLayout]
    """What lies on each table."""
    cubes_pos: np.ndarray
    """(N, 4, 3) float64, centres of the cubes in the order of the layout, world frame, metres; zeros where the table
    has fewer cubes."""
    eef_pos: np.ndarray
    """(N, 3) float64, the grip site, world frame, metres."""
    gripper_qpos: np.ndarray
    """(N, 2) float64, finger joint positions, metres."""
    expert_actions: np.ndarray
    """(N, 4, 7) float32 in [-1, 1], the expert's action if the cube of this number is the target; zeros where the table
    has fewer cubes."""

    def __len__(self) -> int:
        return len(self.layouts)


def write_stills(path: Path, stills: Stills, attributes: Mapping[str, Any]) -> None:
    """Write stills to `path`, atomically."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name in _ARRAYS:
            values = getattr(stills, name)
            if name == "images":
                file.create_dataset(
                    name, data=values, chunks=(1, *values.shape[1:]), compression="gzip", compression_opts=_GZIP_LEVEL
                )
            else:
                file.create_dataset(name, data=values)
        file["layouts"] = np.array([layout.to_json() for layout in stills.layouts], dtype=h5py.string_dtype())
        _write_attributes(file, attributes)


def merge_stills(parts: list[Path], output: Path, attributes: Mapping[str, Any]) -> None:
    """Join the stills of the files `parts`, in order, into `output`, atomically."""
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as file:
        sizes = []
        for part in parts:
            with h5py.File(part, "r") as source:
                sizes.append(len(source["layouts"]))
        ends = np.cumsum(sizes)
        for part, end, size in zip(parts, ends, sizes, strict=True):
            with h5py.File(part, "r") as source:
                for name in (*_ARRAYS, "layouts"):
                    if name not in file:
                        like = source[name]
                        file.create_dataset(
                            name,
                            (int(ends[-1]), *like.shape[1:]),
                            like.dtype,
                            chunks=like.chunks,
                            compression=like.compression,
                            compression_opts=like.compression_opts,
                        )
                    file[name][end - size : end] = source[name][:]
        _write_attributes(file, attributes)


def _write_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    file.attrs["stills_version"] = STILLS_VERSION
    for name, value in attributes.items():
        file.attrs[name] = value


def stills_settings(path: Path) -> dict[str, Any]:
    """The settings that the stills at `path` were collected with.

    Raises:
        UserError: it is no whole file of stills of this version.
    """
    with _open(path) as file:
        settings: dict[str, Any] = json.loads(file.attrs["settings"])
    return settings


def stills_sha256(path: Path) -> str:
    """Hash of the file of stills at `path`.

    Raises:
        UserError: it is no whole file of stills of this version.
    """
    with _open(path):
        return sha256(path)


def stills_facts(path: Path) -> tuple[str, int]:
    """Scene and simulator of the stills at `path` (`vla.sim.config.EnvConfig.to_env_args`), and their number.

    Raises:
        UserError: it is no whole file of stills of this version.
    """
    with _open(path) as file:
        return attribute_text(file.attrs["env_args"]), len(file["layouts"])


def read_stills(path: Path, take_images: Callable[[np.ndarray], object] | None = None) -> Stills:
    """Read all stills of a file into memory.

    Args:
        path: the file.
        take_images: is given the images, (n, H, W, 3), some at a time, in order, so that those of all are never in
            memory together; the array of them then has no rows.

    Raises:
        UserError: it is no whole file of stills of this version.
    """
    with _open(path) as file:
        try:
            arrays = {name: read(file, name) for name in _ARRAYS if name != "images"}
            layouts = [TableLayout.from_json(text) for text in read_texts(file, "layouts")]
        except (UnsafeFileError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path} holds broken stills ({str(error)[:300]}); {_mend(path)}") from None
        images = file["images"]
        if take_images is None:
            arrays["images"] = images[:]
        else:
            for first in range(0, len(images), _READ_TOGETHER):
                take_images(images[first : first + _READ_TOGETHER])
            arrays["images"] = images[:0]
    return Stills(layouts=layouts, **arrays)


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise UserError(f"no stills at {path}; collect them with: {COLLECT_STILLS}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        what = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole HDF5 file ({what}); {_mend(path)}") from None
    try:
        _check(file)
    except UserError as error:
        file.close()
        what = str(error).removeprefix(f"{path} ").removeprefix(f"{path}: ")
        raise UserError(f"{path} {what}; {_mend(path)}") from None
    return file


def _check(file: h5py.File) -> None:
    path = file.filename
    check_attributes(file)
    found = file.attrs.get("stills_version")
    if found != STILLS_VERSION:
        what = f"stills of version {found}, this code reads {STILLS_VERSION}" if found else "no file of stills"
        raise UserError(f"{path} holds {what}")
    check_links(file)
    layouts = file.get("layouts")
    count = len(layouts) if isinstance(layouts, h5py.Dataset) and layouts.ndim == 1 else 0
    missing = [name for name in (*_ARRAYS, "layouts") if name not in file]
    missing += [name for name in ("settings", "env_args") if name not in file.attrs]
    if missing or not count:
        raise UserError(f"{path} holds broken stills")
    check_env_args(attribute_text(file.attrs["env_args"]))
    shapes = {name: array(file, name, is_whole=name != "images").shape for name in _ARRAYS}
    images = shapes["images"]
    fits = len(images) == 4 and images[3] == 3 and max(images[1:3]) <= MOST_PIXELS and file["images"].dtype == np.uint8
    fits &= all(shape[:1] == (count,) for shape in shapes.values())
    if not fits or shapes["expert_actions"] != (count, len(CUBES), ACTION_DIM):
        raise UserError(f"{path} holds broken stills")


def _mend(path: Path) -> str:
    return f"name another file, or move this one away ({move_away_command(path)}) and run: {COLLECT_STILLS}"
