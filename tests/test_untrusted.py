"""Files from anybody: each kind of bad file ends in one line that names it; nothing runs, and memory stays bounded."""

from __future__ import annotations

import json
import os
import pickle
import resource
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

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
from vla.errors import UserError, run_script
from vla.evaluation.recordings import open_episodes
from vla.files import SHIPPED, SHIPPED_LANGUAGE
from vla.judging.evidence import MEASURED, Evidence
from vla.policies.checkpoint import build_model, load_checkpoint
from vla.policies.checkpoint_archive import trained_in
from vla.sim.config import EnvConfig

SPARE_BYTES = 1024**3
"""Address space that a test may take beyond what the process has."""
STEPS = 3


@pytest.fixture(autouse=True)
def _confined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a bomb fail in these tests rather than fill the machine, and let nothing be fetched."""

    def refuse(*_: object) -> None:
        pytest.fail("a file made us connect to somewhere")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def _refused(read: Callable[[Path], object], path: Path, words: str) -> None:
    with pytest.raises(UserError) as refused:
        read(path)
    message = str(refused.value)
    assert "\n" not in message
    assert str(path) in message
    assert words in message
    assert "python " in message  # the command that mends it
    assert len(message) < 1000
    assert not (path.parent / "executed").exists()


# ---------------------------------------------------------------- checkpoints


def _content(**changes: object) -> dict[str, Any]:
    """A checkpoint with one weight; nobody builds its network."""
    untrained = {"source": "untrained", "pretrained": False, "why": "a test", "sha256": "0" * 64}
    content = {
        "format_version": 1,
        "model_config": {},
        "model": {"weight": torch.ones(4)},
        "vision_identity": untrained,
        "text_identity": untrained,
        "language": {"texts": ["lift"], "embeddings": torch.ones(1, 512)},
        "env_args": EnvConfig().to_env_args(),
        "training": {"epoch": 1},
    }
    return {**content, **changes}


class _Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _saved(**changes: object) -> Callable[[Path], None]:
    return lambda path: torch.save(_content(**changes), path)


def _patched(change: Callable[[bytearray, int, int], None]) -> Callable[[Path], None]:
    """Writes a checkpoint and changes its bytes; `change` also gets where the directory and its end begin."""

    def write(path: Path) -> None:
        torch.save(_content(), path)
        data = bytearray(path.read_bytes())
        end = len(data) - 98
        change(data, struct.unpack_from("<Q", data, end + 48)[0], end)
        path.write_bytes(data)

    return write


def _claim_compression(data: bytearray, directory: int, end: int) -> None:
    struct.pack_into("<H", data, directory + 10, zipfile.ZIP_DEFLATED)


def _claim_size(data: bytearray, directory: int, end: int) -> None:
    struct.pack_into("<II", data, directory + 20, 2**31, 2**31)


def _claim_directory(data: bytearray, directory: int, end: int) -> None:
    struct.pack_into("<Q", data, end + 40, 2**50)


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))


def _calling(path: Path) -> Callable[..., object]:
    return _Call(os.system, f"touch {path.parent / 'executed'}")  # type: ignore[return-value]


def _huge(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 3 * 1024**3)  # takes no space on the disk


def _nested(levels: int, width: int = 1) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested] * width
    return nested


def _env(**changes: object) -> str:
    stored = json.loads(EnvConfig().to_env_args())
    return json.dumps({**stored, "env_kwargs": {**stored["env_kwargs"], **changes}})


def _language(text: object, embeddings: torch.Tensor) -> dict[str, Any]:
    return {"texts": [text], "embeddings": embeddings}


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "truncated"),
    "no archive": (lambda path: path.write_bytes(b"no weights at all\n" * 100), "no archive"),
    "truncated": (_patched(lambda data, directory, end: data.__delitem__(slice(end - 50, None))), "no archive"),
    "a pickle that runs a command": (lambda path: path.write_bytes(pickle.dumps(_calling(path)) * 20), "no archive"),
    "an archive that runs a command": (lambda path: torch.save(_content(versions=_calling(path)), path), "system"),
    "a constructor that fills the memory": (_saved(versions=_Call(bytearray, 10**12)), "bytearray"),
    "an array of numpy": (_saved(versions=np.ones(3)), "numpy"),
    "a sparse tensor": (_saved(model={"weight": torch.ones(4).to_sparse()}), "sparse"),
    "a zip bomb": (_bomb, "no archive that torch wrote"),
    "a compressed part": (_patched(_claim_compression), "compressed"),
    "parts larger than the file": (_patched(_claim_size), "larger than the file"),
    "an endless directory": (_patched(_claim_directory), "directory"),
    "three gigabytes of nothing": (_huge, "GB"),
    "NaN among the weights": (_saved(model={"weight": torch.tensor([0, torch.nan])}), "weight holds numbers"),
    "infinite weights in half": (_saved(model={"weight": torch.tensor([torch.inf]).half()}), "weight holds numbers"),
    "infinite embeddings": (_saved(language=_language("lift", torch.full((1, 512), torch.inf))), "embeddings"),
    "a tensor without its numbers": (_saved(model={"weight": torch.ones(1).expand(10**12)}), "claim 4000000.0 MB"),
    "weights that are a list": (_saved(model=[torch.ones(1)]), "no dict of tensors"),
    "a number for an instruction": (_saved(language=_language(3, torch.ones(1, 512))), "instruction"),
    "an endless instruction": (_saved(language=_language("x" * 5000, torch.ones(1, 512))), "instruction"),
    "an endless text": (_saved(versions="x" * 10**6), "1000000 characters"),
    "lists in lists": (_saved(versions=_nested(200)), "deeper"),
    "a billion laughs": (_saved(versions=_nested(9, 10)), "more than"),
    "a network without end": (_saved(model_config={"feature_dim": 10**9}), "feature_dim"),
    "layers without end": (_saved(model_config={"decoder_layers": 10**9}), "decoder_layers"),
    "a picture without end": (_saved(model_config={"image": {"size_px": 10**6}}), "size_px"),
    "a dropout that is no number": (_saved(model_config={"dropout": float("nan")}), "dropout"),
    "heads in words": (_saved(model_config={"heads": "eight"}), "heads"),
    "an unknown origin": (_saved(vision_identity={}), "vision_identity"),
    "a training in words": (_saved(training="long"), "training"),
    "a simulator that is no text": (_saved(env_args={"env_name": "Lift"}), "env_args"),
    "a simulator of brackets": (_saved(env_args="[" * 9000), "env_args"),
    "a simulator with a huge picture": (_saved(env_args=_env(camera_heights=10**9)), "image_size_px"),
    "a simulator without a camera": (_saved(env_args=_env(camera_names=[])), "IndexError"),
}


@pytest.mark.parametrize(("write", "words"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_bad_checkpoint_is_refused_in_one_line(write: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    write(path)
    _refused(load_checkpoint, path, words)


NOT_IN_THE_HEAD = {
    *("NaN among the weights", "infinite weights in half", "infinite embeddings", "a tensor without its numbers"),
    *("weights that are a list", "a number for an instruction", "an endless instruction", "an endless text"),
    *("lists in lists", "a billion laughs", "a network without end", "layers without end", "a picture without end"),
    *("a dropout that is no number", "heads in words", "an unknown origin", "a training in words"),
}
"""What `trained_in` does not look at, and loading a checkpoint refuses."""


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_asking_a_bad_checkpoint_for_its_simulator_is_as_safe(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    write, words = CHECKPOINTS[kind]
    write(path)
    if kind in NOT_IN_THE_HEAD:
        assert trained_in(path) == EnvConfig()
    else:
        _refused(trained_in, path, words)


def test_a_checkpoint_of_another_format_says_nothing_of_its_simulator(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    torch.save(_content(format_version=7), path)
    _refused(trained_in, path, "format version 7, expected 1")
    torch.save([1], path)
    _refused(trained_in, path, "no dict")


@pytest.mark.parametrize("path", [SHIPPED, SHIPPED_LANGUAGE])
def test_a_checkpoint_says_in_which_simulator_it_was_trained(path: Path) -> None:
    assert trained_in(path) == EnvConfig.from_env_args(load_checkpoint(path)["env_args"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "lacks"),
        ({"feature_dim": 16_000, "decoder_dim": 16_000}, "lacks"),
        ({"dropout": 2.0}, "dropout"),
        ({"wings": 2}, "another architecture"),
        ({"heads": 7}, "heads"),
    ],
)
def test_a_network_that_does_not_fit_its_weights_takes_no_memory(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    """One of them would take 40 GB."""
    path = tmp_path / "policy.pth"
    torch.save(_content(model_config={"image": {}, **changes}), path)
    _refused(lambda file: build_model(load_checkpoint(file), file), path, words)


@pytest.mark.parametrize("path", [SHIPPED, SHIPPED_LANGUAGE])
def test_shipped_policies_pass(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    model = build_model(checkpoint, path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, checkpoint["model"][name].to(weight.dtype), rtol=0, atol=0)


@dataclass(frozen=True)
class _Options:
    checkpoint: Path = Path("bad.pth")


def test_a_bad_checkpoint_ends_a_script_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["script"])
    _bomb(tmp_path / "bad.pth")
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda options: print(load_checkpoint(options.checkpoint)), _Options, None)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- demonstrations


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
    _refused(_read_demos, path, words)


def test_a_truncated_demonstration_file_is_refused_in_one_line(good_demos: bytes, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    path.write_bytes(good_demos[:-500])
    _refused(_read_demos, path, "not a whole HDF5 file")


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


# ---------------------------------------------------------------- recordings and stills


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
    _refused(_read_episodes, path, words)


def test_texts_are_read_one_at_a_time_and_not_without_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "texts.hdf5", "w") as file:
        file["some"] = np.array(["a", "b"], dtype=h5py.string_dtype())
        file["many"] = np.array(["x" * (4 * 1024**2 + 1)], dtype=h5py.string_dtype())
        assert read_texts(file, "some") == ["a", "b"]
        with pytest.raises(UserError, match="characters"):
            read_texts(file, "many")
