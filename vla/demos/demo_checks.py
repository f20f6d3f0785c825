"""Checks on what a demonstration file says: its attributes and arrays must be what the collection writes."""

from __future__ import annotations

import json
import re

import h5py
import numpy as np

from vla.demos.hdf5_checks import UnsafeFileError, array, attribute_text, check_attributes, check_links
from vla.demos.source import Source
from vla.errors import UserError
from vla.sim.config import ACTION_DIM, EnvConfig

MOST_PIXELS = 1024
"""Largest height and width of an image."""
MOST_STEPS = 100_000
"""Longest demonstration, in control steps: 83 minutes."""
MOST_INSTRUCTION = 1000
"""Longest instruction, in characters."""
_SEEDS = range(2**63)
_NAME = re.compile(r"demo_\d{1,9}")


def is_demo_name(name: str) -> bool:
    """Whether a demonstration can have this name: demo_N."""
    return _NAME.fullmatch(name) is not None


def check_split_and_origin(file: h5py.File) -> None:
    """Check the links and masks of a file, and what its attributes say of the collection.

    Raises:
        UnsafeFileError: they are not what the collection writes.
    """
    check_links(file["data"], recursive=False)
    check_links(file["mask"])
    data = file["data"]
    held = set(data)
    for split in ("train", "valid"):
        names = array(file, f"mask/{split}")
        is_list = names.dtype.kind == "S" and names.ndim == 1 and len(names) <= len(held)
        if not is_list or not {name.decode(errors="replace") for name in names[:]} <= held:
            raise UnsafeFileError(f"{file.filename}: mask/{split} is no list of its demonstrations")
    try:
        EnvConfig.from_env_args(attribute_text(data.attrs["env_args"]))
        source = Source.of(file)
        lists = [json.loads(data.attrs[name]) for name in ("collection", "rejected") if source is None]
    except (TypeError, ValueError, RecursionError, UserError) as error:
        raise UnsafeFileError(f"{file.filename} does not say how it was collected ({str(error)[:200]})") from None
    if not all(isinstance(found, list) for found in lists):
        raise UnsafeFileError(f"{file.filename} does not say how it was collected")


def check_demo(demo: h5py.Group) -> None:
    """Check the attributes of a demonstration, and the arrays that decide how much memory it takes.

    Raises:
        UnsafeFileError: they are not what the collection writes.
    """
    check_attributes(demo)
    length, instruction = demo.attrs["episode_length"], attribute_text(demo.attrs["language_instruction"])
    seed = demo.attrs.get("seed", np.int64(0))
    is_seed = isinstance(seed, np.integer) and int(seed) in _SEEDS
    if not is_seed or len(instruction) > MOST_INSTRUCTION:
        raise UnsafeFileError(f"{_place(demo)} has a seed that is no number, or an instruction that is no sentence")
    actions, images = array(demo, "actions").shape, array(demo, "images")
    is_length = isinstance(length, np.integer) and 0 < length <= MOST_STEPS
    if not is_length or actions != (length, ACTION_DIM) or images.shape[0] != length:
        raise UnsafeFileError(
            f"{_place(demo)} says {str(length)[:20]} steps but holds actions {actions} and images {images.shape}"
        )
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or max(images.shape[1:3]) > MOST_PIXELS:
        raise UnsafeFileError(f"{_place(demo)} has images of shape {images.shape} {images.dtype}")


def _place(demo: h5py.Group) -> str:
    """The file and the name of a demonstration."""
    return f"{demo.file.filename}: {demo.name.rpartition('/')[2]}"
