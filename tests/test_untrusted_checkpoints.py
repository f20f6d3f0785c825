"""Checkpoints from anybody: each kind of bad file ends in one line that names it; nothing runs or fills the memory."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import assert_refused
from vla.errors import run_script
from vla.files import SHIPPED, SHIPPED_LANGUAGE
from vla.policies.checkpoint import build_model, load_checkpoint
from vla.policies.checkpoint_archive import trained_in
from vla.sim.config import EnvConfig

pytestmark = pytest.mark.usefixtures("confined")


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


def _laughing_tuple(levels: int) -> tuple[Any, ...]:
    laughing: tuple[Any, ...] = ()
    for _ in range(levels):
        laughing = (laughing, laughing)
    return laughing


def _hiding_methods(path: Path) -> None:
    content = OrderedDict(_content())
    content.get = 1  # type: ignore[method-assign, assignment]
    torch.save(content, path)


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
    "a version of lists in lists": (_saved(format_version=_nested(300)), "format version list"),
    "a version of a billion laughs": (_saved(format_version=_nested(9, 10)), "format version list"),
    "a dict with methods of its own": (_hiding_methods, "format version None"),
    "a key that takes for ever to hash": (_saved(versions={_laughing_tuple(30): 1}), "uses of a tuple"),
    "a simulator that is no text": (_saved(env_args={"env_name": "Lift"}), "env_args"),
    "a simulator of brackets": (_saved(env_args="[" * 9000), "env_args"),
    "a simulator with a huge picture": (_saved(env_args=_env(camera_heights=10**9)), "image_size_px"),
    "a simulator without a camera": (_saved(env_args=_env(camera_names=[])), "IndexError"),
}


@pytest.mark.parametrize(("write", "words"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_bad_checkpoint_is_refused_in_one_line(write: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    write(path)
    assert_refused(load_checkpoint, path, words)


NOT_IN_THE_HEAD = {
    *("NaN among the weights", "infinite weights in half", "infinite embeddings", "a tensor without its numbers"),
    *("weights that are a list", "a number for an instruction", "an endless instruction", "an endless text"),
    *("lists in lists", "a billion laughs", "a network without end", "layers without end", "a picture without end"),
    *("a version of lists in lists", "a version of a billion laughs", "a dict with methods of its own"),
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
        assert_refused(trained_in, path, words)


def test_a_file_without_env_args_says_nothing_of_its_simulator(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    torch.save([1], path)
    assert_refused(trained_in, path, "lacks env_args")


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
    assert_refused(lambda file: build_model(load_checkpoint(file), file), path, words)


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
