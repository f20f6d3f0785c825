"""Checks on a checkpoint that may come from anybody: nothing in it runs, and it takes no more memory than its own size.

`check_archive` looks at the file before torch reads it, `check_content` at what torch has read, and `check_weights` at
the weights beside the network that the configuration describes, before that network takes any memory.

torch's `weights_only=True` calls no function of the file's choice, but three things that it allows are refused here:
compressed parts, which can be a thousand times larger in memory; constructors such as `bytearray(10**12)`; and numbers
of a network that no memory holds.
"""

from __future__ import annotations

import math
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.errors import UserError
from vla.policies.network import model_architecture
from vla.sim.config import check_env_args

REMEDY = "get it again from where it came, or train your own with: python 4_train.py"
MOST_BYTES = 2 * 1024**3
"""Largest file that is read. A policy has 22 million weights: 87 MB in float32, 260 MB with its optimiser's state; this
is eight times as much."""
MOST_MEMBERS = 10_000
"""Parts of an archive: a tensor each. A policy has some 240, with its optimiser some 800."""
MOST_MEMBER_NAME = 256
"""Bytes of the central directory that the name and the attributes of a part take, on average."""
MOST_PICKLE_BYTES = 32 * 1024**2
"""The part that names the tensors and holds everything else; 0.2 MB in the largest shipped policy."""
MOST_VALUES = 500_000
"""Numbers, texts, tensors and containers in a checkpoint."""
MOST_DEPTH = 30
"""Containers within containers."""
MOST_TEXT = 100_000
"""Characters of any text."""
MOST_INSTRUCTION = 1000
"""Characters of an instruction."""
MOST_WIDTH = 16_384
"""Largest number in a configuration that has no limit of its own below: the width of a layer."""
MOST = {
    "size_px": 1024,
    "observation_horizon": 1000,
    "chunk_size": 1000,
    "located_cubes": 1000,
    "decoder_layers": 100,
    "heads": 1000,
}
_STORAGES = ("Half", "BFloat16", "Float", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
"""What `torch.save` names for tensors in dicts and lists."""
_OPCODES = {
    *("PROTO", "MARK", "STOP", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET"),
    *("LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("SETITEM", "SETITEMS"),
}
"""What `torch.save` writes for tensors and plain types: no bytes, no objects, nothing whose size is only claimed."""
_TAIL = struct.Struct("<4s36xQQ4s4xQ4x4s16xH")
"""End of every archive that torch writes: zip64's end of the central directory, its locator, and the plain end."""


class _RefusedError(Exception):
    """What is wrong with a checkpoint, in words."""


def refusal(path: Path, what: object) -> UserError:
    """The error about a file that is no whole checkpoint."""
    return UserError(f"{path} is not a whole checkpoint ({what}); {REMEDY}")


def check_archive(path: Path) -> None:
    """Check that a file is an archive as torch writes it, uncompressed, with tensors and plain types only.

    Nothing of it is executed or unpacked, and 32 MiB of it are read at most.

    Raises:
        UserError: it is none.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _RefusedError(f"{size / 1e9:.1f} GB, and no policy has more than {MOST_BYTES / 1e9:.1f}")
        _check_tail(path, size)
        with zipfile.ZipFile(path) as archive:
            pickles = _check_members(archive, size)
            _check_pickle(archive.read(pickles))
    except _RefusedError as refused:
        raise refusal(path, refused) from None
    except Exception as error:  # zipfile and pickletools raise various types for broken files
        raise refusal(path, type(error).__name__) from None


def _check_tail(path: Path, size: int) -> None:
    """Check where the archive says that its directory is, before a directory of any length is read.

    torch and Python look for the directory each in its own way; where only torch's layout is allowed, both find the
    same one.
    """
    if size < _TAIL.size:
        raise _RefusedError("truncated")
    with open(path, "rb") as file:
        file.seek(-_TAIL.size, 2)
        end64, length, start, locator, at, end, comment = _TAIL.unpack(file.read())
    where = size - _TAIL.size
    if (end64, locator, end) != (b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06") or comment:
        raise _RefusedError("truncated, or no archive that torch wrote")
    if at != where or start + length != where or length > MOST_MEMBERS * MOST_MEMBER_NAME:
        raise _RefusedError("the directory of its archive is broken")


def _check_members(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    """Check what the archive says of its parts; returns the pickle among them."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise _RefusedError(f"{len(members)} parts, and no policy has more than {MOST_MEMBERS}")
    if len({member.filename for member in members}) < len(members):
        raise _RefusedError("two of its parts have the same name")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise _RefusedError("parts of it are compressed or encrypted, and torch writes neither")
    if sum(member.file_size for member in members) > size:
        raise _RefusedError("its parts claim to be larger than the file")
    pickles = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
        raise _RefusedError("no archive of tensors")
    return pickles[0]


def _check_pickle(data: bytes) -> None:
    """Check the instructions of a pickle without running any."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise _RefusedError(f"it holds more than tensors and plain types: the pickle opcode {opcode.name}")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise _RefusedError(f"it holds more than tensors and plain types: {str(argument)[:80]!r}")


def check_content(content: Mapping[str, Any], path: Path) -> None:
    """Check what torch has read from a file that `check_archive` let pass, and that has all the keys of a checkpoint.

    Raises:
        UserError: a value is of another type than its use, not finite, or of an absurd size.
    """
    try:
        _check_sizes(content, path.stat().st_size)
        _check_language(content["language"])
        _check_tensors(content["model"])
        _check_config(content["model_config"])
        for name in ("text_identity", "vision_identity"):
            _check_identity(content[name], name)
        training = content["training"]
        if not isinstance(training, dict) or type(training.get("epoch")) is not int:
            raise _RefusedError("training is no record of a training")
        check_env_args(content["env_args"])
    except (_RefusedError, UserError) as refused:
        raise refusal(path, refused) from None


def _check_sizes(content: object, size: int) -> None:
    """Check that all values are plain types, and not larger than the file: a tensor can claim to be."""
    visited, claimed = 0, 0
    left: list[tuple[object, int]] = [(content, 0)]
    while left:
        value, depth = left.pop()
        visited += 1
        if visited > MOST_VALUES or depth > MOST_DEPTH:
            raise _RefusedError(f"it holds more than {MOST_VALUES} values, or deeper ones than {MOST_DEPTH} levels")
        if isinstance(value, Tensor):
            claimed += value.numel() * value.element_size()
        elif isinstance(value, str) and len(value) > MOST_TEXT:
            raise _RefusedError(f"a text of {len(value)} characters")
        left += [(child, depth + 1) for child in _children(value)]
    if claimed > size:
        raise _RefusedError(f"its tensors claim {claimed / 1e6:.1f} MB, and the file has {size / 1e6:.1f}")


def _children(value: object) -> Iterator[object]:
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        if set(getattr(value, "__dict__", {})) - {"_metadata"}:  # it would hide the dict's own methods
            raise _RefusedError("a dict with attributes")
        yield from value.keys()
        yield from value.values()
    elif type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        yield from value
    elif type(value) not in (str, int, float, bool, type(None), Tensor):
        raise _RefusedError(f"a value of type {type(value).__name__}")


def _check_language(stored: object) -> None:
    texts, embeddings = (stored.get("texts"), stored.get("embeddings")) if isinstance(stored, dict) else (None, None)
    if (
        not isinstance(texts, list)
        or not isinstance(embeddings, Tensor)
        or not embeddings.is_floating_point()
        or embeddings.ndim != 2
        or len(texts) != len(embeddings)
    ):
        raise _RefusedError("it lacks an embedding for each of its instructions")
    if any(not isinstance(text, str) or len(text) > MOST_INSTRUCTION for text in texts):
        raise _RefusedError(f"an instruction is no text of at most {MOST_INSTRUCTION} characters")
    _check_tensors({"the embeddings of the instructions": embeddings})


def _check_tensors(stored: object) -> None:
    if not isinstance(stored, dict):
        raise _RefusedError("its weights are no dict of tensors")
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise _RefusedError("its weights are no dict of tensors")
        if value.is_floating_point() and not _is_finite(value):
            raise _RefusedError(f"{name[:80]} holds numbers that are not finite")


def _is_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite. The smallest and the largest tell, in half the time of a look at each."""
    return not values.numel() or all(math.isfinite(bound) for bound in torch.stack(torch.aminmax(values)).tolist())


def _check_config(stored: object) -> None:
    """Check the types and the numbers of a network's configuration, which decide how much memory it takes."""
    if not isinstance(stored, dict) or not isinstance(stored.get("image", {}), dict):
        raise _RefusedError("model_config is no configuration of a network")
    defaults: dict[str, Any] = model_architecture().ModelConfig().to_dict()
    known = {**defaults, **defaults["image"]}
    for name, value in {**stored, **stored.get("image", {})}.items():
        if name == "image" or name not in known:  # unknown ones are another architecture's, which building reports
            continue
        wanted = (int, float) if isinstance(known[name], float) else (type(known[name]),)
        if type(value) not in wanted:
            raise _RefusedError(f"{name} of its configuration is of type {type(value).__name__}")
        if type(value) in (int, float) and not 0 <= value <= MOST.get(name, MOST_WIDTH):
            raise _RefusedError(f"{name} of its configuration is {value!r}")


def _check_identity(stored: object, name: str) -> None:
    """Check what a checkpoint says about initial weights (`vla.policies.weights.Identity`)."""
    if isinstance(stored, dict) and isinstance(stored.get("pretrained"), bool):
        words = ["source" if stored["pretrained"] else "why"] + ["sha256"] * (name == "text_identity")
        if all(isinstance(stored.get(word), str) for word in words):
            return
    raise _RefusedError(f"{name} does not say where the weights come from")


def check_weights(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str | None:
    """Compare stored weights with those of a network, which need not be in memory; returns the first difference."""
    for name, tensor in expected.items():
        if name not in stored:
            return f"lacks {name}"
        found = stored[name]
        if found.shape != tensor.shape or found.is_floating_point() != tensor.is_floating_point():
            return f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(tensor.shape)} {tensor.dtype}"
    unknown = [name for name in stored if name not in expected]
    return f"has {unknown[0][:80]}, which the network lacks" if unknown else None
