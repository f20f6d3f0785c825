"""Demonstrations and recordings from anybody: each kind of bad file ends in one line; nothing is followed or filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.conftest import assert_refused
from vla.demos.hdf5_checks import read_texts
from vla.demos.index import write_index
from vla.demos.schema import (
    SCHEMA_VERSION,
    Demo,
    checked_demos,
    demo_names,
    is_collected,
    open_demos,
    read_demo,
    scene_of,
    write_demo,
)
from vla.errors import UserError
from vla.evaluation.recordings import open_episodes
from vla.judging.evidence import MEASURED, Evidence
from vla.sim.config import EnvConfig

pytestmark = pytest.mark.usefixtures("confined")

STEPS = 3


def _evidence(rows: tuple[int, ...]) -> dict[str, np.ndarray]:
    vectors = ("cube_pos", "gripper_pos", "cube_in_gripper")
    return {name: np.zeros((*rows, 3) if name in vectors else rows) for name in MEASURED}


def write_demos(path: Path) -> None:
    """A file of two small demonstrations, as the collection writes it."""
    start: dict[str, Any] = _evidence(())
    demo = Demo(
        instruction="Pick up the cube",
        seed=0,
        images=np.zeros((STEPS, 32, 32, 3), np.uint8),
        actions=np.zeros((STEPS, 7), np.float32),
        executed_actions=np.zeros((STEPS, 7), np.float32),
        rewards=np.zeros(STEPS, np.float32),
        states=np.zeros((STEPS, 32)),
        phases=np.array([b"lift"] * STEPS),
        sources=np.array([b"expert"] * STEPS),
        observations={
            "cube_pos": np.zeros((STEPS, 3)),
            "robot0_eef_pos": np.zeros((STEPS, 3)),
            "robot0_gripper_qpos": np.zeros((STEPS, 2)),
        },
        evidence=_evidence((STEPS,)),
        start_evidence=Evidence(**start),
    )
    with h5py.File(path, "w") as file:
        for name in ("demo_0", "demo_1"):
            write_demo(file.create_group(f"data/{name}"), demo, "<mujoco/>")
        data = file["data"]
        data.attrs.update({"schema_version": SCHEMA_VERSION, "env_args": EnvConfig().to_env_args()})
        data.attrs.update({"collection": "[]", "rejected": "[]", "total": 2 * STEPS})
        file["mask/train"], file["mask/valid"] = np.array([b"demo_0"]), np.array([b"demo_1"])


def _read_demos(path: Path) -> None:
    with open_demos(path) as file:
        for _, demo in checked_demos(file, demo_names(file)):
            read_demo(demo)


def _replaced(name: str, values: Any, **options: Any) -> Callable[[h5py.File], None]:
    """Puts another dataset in the place of one of the second demonstration's."""

    def change(file: h5py.File) -> None:
        demo = file["data/demo_1"]
        del demo[name]
        if isinstance(values, h5py.ExternalLink | h5py.SoftLink):
            demo[name] = values
        elif isinstance(values, h5py.VirtualLayout):
            demo.create_virtual_dataset(name, values)
        else:
            demo.create_dataset(name, data=values, **options)

    return change


def _claimed(name: str, shape: tuple[int, ...], **options: Any) -> Callable[[h5py.File], None]:
    """Puts a dataset in the place of another that stores nothing of what it claims."""

    def change(file: h5py.File) -> None:
        file["data/demo_1"].attrs["episode_length"] = shape[0]
        for each in ("actions", name):
            del file[f"data/demo_1/{each}"]
        rest = {"dtype": "u1" if name == "images" else "f8", "chunks": True, **options}
        file["data/demo_1"].create_dataset(name, shape, **rest)
        file["data/demo_1"].create_dataset("actions", (shape[0], 7), "f4", chunks=(min(1000, shape[0]), 7))

    return change


def _attribute(group: str, name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: file[group].attrs.__setitem__(name, value)


def _link(place: str, link: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file[place] = link

    return change


def _unknown_filter(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((STEPS, 7))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    del file["data/demo_1/actions"]
    space = h5py.h5s.create_simple((STEPS, 7))
    h5py.h5d.create(file["data/demo_1"].id, b"actions", h5py.h5t.IEEE_F32LE, space, created)


def _damaged_chunk(file: h5py.File) -> None:
    images = file["data/demo_1/images"]
    images.id.write_direct_chunk((0, 0, 0, 0), b"\x00" * 50)


LAYOUT = h5py.VirtualLayout((STEPS, 7), "f4")
LAYOUT[:] = h5py.VirtualSource("elsewhere.hdf5", "actions", (STEPS, 7))
TEXTS = np.array(["x" * 1000] * 10, dtype=h5py.string_dtype())


def _mask(names: np.ndarray) -> Callable[[h5py.File], object]:
    """Write these into a mask."""

    def change(file: h5py.File) -> None:
        del file["mask/train"]
        file["mask/train"] = names

    return change


DEMOS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "a file behind a link": (_link("data", h5py.ExternalLink("elsewhere.hdf5", "/data")), "link"),
    "a demonstration behind a link": (_link("data/demo_1", h5py.ExternalLink("/etc/passwd", "/")), "link"),
    "an array behind a link": (_replaced("obs/cube_pos", h5py.ExternalLink("elsewhere.hdf5", "/x")), "link"),
    "an array by another name": (_replaced("states", h5py.SoftLink("/data/demo_0/states")), "soft"),
    "a mask behind a link": (_link("mask/train", h5py.SoftLink("/mask/valid")), "soft"),
    "a mask of numbers": (_mask(np.arange(1)), "mask/train is no list"),
    "a mask of other bytes": (_mask(np.array([b"\xff\xfe"])), "mask/train is no list"),
    "a link that nobody needs": (_link("data/demo_1/obs/more", h5py.ExternalLink("elsewhere.hdf5", "/x")), "link"),
    "numbers in another file": (
        _replaced("actions", None, shape=(STEPS, 7), dtype="f4", external=[("/etc/passwd", 0, STEPS * 28)]),
        "another file",
    ),
    "a virtual array": (_replaced("actions", LAYOUT), "another file"),
    "references": (_replaced("actions", np.full((STEPS, 7), h5py.Reference()), dtype=h5py.ref_dtype), "type"),
    "compounds": (_replaced("rewards", np.zeros(STEPS, [("a", "f4"), ("b", "f4")])), "type"),
    "texts of any length": (_replaced("phases", TEXTS[:STEPS]), "type"),
    "an unknown filter": (_unknown_filter, "filter"),
    "a damaged chunk": (_damaged_chunk, "cannot be read"),
    "a demonstration without end": (_claimed("images", (10**12, 32, 32, 3)), "claims"),
    "more steps than an hour has": (_claimed("rewards", (200_000,)), "200000 steps"),
    "pictures without end": (
        _replaced("images", None, shape=(STEPS, 9000, 9000, 3), dtype="u1", chunks=True),
        "claims",
    ),
    "states without end": (_replaced("states", None, shape=(STEPS, 10**9), dtype="f8", chunks=True), "claims"),
    "a chunk without end": (
        _replaced("rewards", None, shape=(STEPS,), maxshape=(None,), dtype="f8", chunks=(10**8,)),
        "chunks",
    ),
    "a well packed bomb": (
        _replaced("states", np.zeros((STEPS, 10**6)), chunks=(1, 10**6), compression="gzip", compression_opts=1),
        "stores",
    ),
    "NaN among the actions": (_replaced("actions", np.full((STEPS, 7), np.nan, np.float32)), "not finite"),
    "NaN among the states": (_replaced("states", np.full((STEPS, 32), np.nan)), "not finite"),
    "an infinite place": (_replaced("obs/cube_pos", np.full((STEPS, 3), np.inf)), "not finite"),
    "a row too few": (_replaced("obs/cube_pos", np.zeros((STEPS - 1, 3))), "shape"),
    "pictures of another type": (_replaced("images", np.zeros((STEPS, 32, 32, 3))), "float64"),
    "a group for an array": (_link("data/demo_1/obs/loop", "data"), "no array"),
    "an attribute of many texts": (_attribute("data/demo_1", "model_file", TEXTS), "attribute"),
    "an attribute of many numbers": (_attribute("data/demo_1", "seed", np.zeros(1000)), "attribute"),
    "steps in words": (_attribute("data/demo_1", "episode_length", "three"), "three steps"),
    "an endless instruction": (_attribute("data/demo_1", "language_instruction", "x" * 5000), "instruction"),
    "a simulator of brackets": (_attribute("data", "env_args", "[" * 9000), "env_args"),
    "a collection of brackets": (_attribute("data", "collection", "[" * 60_000), "how it was collected"),
    "a table of nothing": (_attribute("data/demo_1", "layout", '[{"body": 1}]'), "table"),
    "an unknown name in the split": (_attribute("data", "total", 0), "mask/valid"),
}


@pytest.fixture(scope="module")
def good_demos(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "demos.hdf5"
    write_demos(path)
    _read_demos(path)  # passes
    return path.read_bytes()


@pytest.mark.parametrize("indexed", [True, False], ids=["with an index", "without"])
@pytest.mark.parametrize("kind", DEMOS)
def test_a_bad_demonstration_file_is_refused_in_one_line(
    kind: str, indexed: bool, good_demos: bytes, tmp_path: Path
) -> None:
    change, words = DEMOS[kind]
    path = tmp_path / "demos.hdf5"
    path.write_bytes(good_demos)
    with h5py.File(path, "r+") as file:
        if indexed:
            write_index(file)
        if isinstance(file.get("data/demo_1"), h5py.Group) and kind == "a group for an array":
            file["data/demo_1/obs/loop"] = file["data"]
        else:
            change(file)
        if kind == "an unknown name in the split":
            file["mask/valid"][:] = b"demo_7"
    assert_refused(_read_demos, path, words)


def test_a_truncated_demonstration_file_is_refused_in_one_line(good_demos: bytes, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(good_demos[:-500])
    assert_refused(_read_demos, path, "not a whole HDF5 file")


def test_the_collection_follows_no_link_when_it_looks_whose_file_it_is(tmp_path: Path, good_demos: bytes) -> None:
    other, path = tmp_path / "other.hdf5", tmp_path / "demos.hdf5"
    other.write_bytes(good_demos)
    assert is_collected(other)
    with h5py.File(path, "w") as file:
        file["data"] = h5py.ExternalLink(str(other), "/data")
    assert not is_collected(path)


def test_a_target_that_is_not_on_the_table_is_refused(tmp_path: Path, good_demos: bytes) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(good_demos)
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["target"] = 3
        with pytest.raises(UserError, match="what lies on its table"):
            scene_of(file["data/demo_0"])


def _read_episodes(path: Path) -> None:
    with open_episodes(path):
        pass


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (h5py.ExternalLink("elsewhere.hdf5", "/x"), "link"),
        (np.zeros((STEPS, 6)), "holds actions"),
        (None, "claims"),
    ],
)
def test_bad_recordings_are_refused_in_one_line(actions: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "episodes.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"episodes_version": 1, "env_args": EnvConfig().to_env_args()})
        group = file.create_group("episode_1")
        group.attrs.update({"seed": 0, "success": True, "verdict": "lifted"})
        group["states"] = np.zeros((STEPS, 32))
        if actions is None:
            group.create_dataset("actions", (10**11, 7), "f8", chunks=True)
        else:
            group["actions"] = actions
    assert_refused(_read_episodes, path, words)


def test_texts_are_read_one_at_a_time_and_not_without_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "texts.hdf5", "w") as file:
        file["some"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file["many"] = np.array(["x" * (4 * 1024**2 + 1)], dtype=h5py.string_dtype())
        assert read_texts(file, "some") == ["a", "b"]
        with pytest.raises(UserError, match="characters"):
            read_texts(file, "many")
