"""The archive that a checkpoint is, looked at without torch: whether torch may read it, and what it was trained in.

torch's `weights_only=True` calls no function of the file's choice, but three things that it allows are refused: here,
compressed parts, which can be a thousand times larger in memory, and constructors such as `bytearray(10**12)`; in
`vla.policies.checkpoint_checks`, numbers of a network that no memory holds.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path

from vla.errors import UserError
from vla.sim.config import EnvConfig

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
MOST_SHARED_TUPLES = 16
"""Uses of a tuple again, of which policies have none: a tuple of a tuple twice, and so on, takes for ever to hash."""
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


class RefusedError(Exception):
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
    _checked_pickle(path)


def trained_in(path: Path) -> EnvConfig:
    """Return the simulator that a checkpoint was trained in. Its tensors are not read, and torch is not needed.

    Raises:
        UserError: the file is no checkpoint. Whether anything else in it can be used is not looked at.
    """
    env_args = _text_after("env_args", _checked_pickle(path))
    if env_args is None:
        raise refusal(path, "it lacks env_args, the simulator in which it was trained")
    try:
        return EnvConfig.from_env_args(env_args)
    except UserError as refused:
        raise refusal(path, refused) from None


def _text_after(key: str, data: bytes) -> str | None:
    """Return the text that follows the text `key` in a pickle, as a dict's value follows its key; None: there is none.

    The pickle's instructions are only looked at, not carried out.
    """
    memo: dict[int | None, str] = {}
    before, latest = None, None
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if latest is not None:
                memo[argument] = latest
            continue
        before, latest = latest, None
        if opcode.name == "BINUNICODE":
            latest = argument
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            latest = memo.get(argument)
        if before == key and latest is not None:
            return latest
    return None


def _checked_pickle(path: Path) -> bytes:
    """Return the part of an archive that holds everything but the tensors' numbers; see `check_archive`."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise RefusedError(f"{size / 1e9:.1f} GB, and no policy has more than {MOST_BYTES / 1e9:.1f}")
        _check_tail(path, size)
        with zipfile.ZipFile(path) as archive:
            data = archive.read(_check_members(archive, size))
        _check_pickle(data)
    except RefusedError as refused:
        raise refusal(path, refused) from None
    except Exception as error:  # zipfile and pickletools raise various types for broken files
        raise refusal(path, type(error).__name__) from None
    return data


def _check_tail(path: Path, size: int) -> None:
    """Check where the archive says that its directory is, before a directory of any length is read.

    torch and Python look for the directory each in its own way; where only torch's layout is allowed, both find the
    same one.
    """
    if size < _TAIL.size:
        raise RefusedError("truncated")
    with open(path, "rb") as file:
        file.seek(-_TAIL.size, 2)
        end64, length, start, locator, at, end, comment = _TAIL.unpack(file.read())
    where = size - _TAIL.size
    if (end64, locator, end) != (b"PK\x06\x06", b"PK\x06\x07", b"PK\x05\x06") or comment:
        raise RefusedError("truncated, or no archive that torch wrote")
    if at != where or start + length != where or length > MOST_MEMBERS * MOST_MEMBER_NAME:
        raise RefusedError("the directory of its archive is broken")


def _check_members(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    """Check what the archive says of its parts; returns the pickle among them."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise RefusedError(f"{len(members)} parts, and no policy has more than {MOST_MEMBERS}")
    if len({member.filename for member in members}) < len(members):
        raise RefusedError("two of its parts have the same name")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise RefusedError("parts of it are compressed or encrypted, and torch writes neither")
    if sum(member.file_size for member in members) > size:
        raise RefusedError("its parts claim to be larger than the file")
    pickles = [member for member in members if member.filename.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE_BYTES:
        raise RefusedError("no archive of tensors")
    return pickles[0]


def _check_pickle(data: bytes) -> None:
    """Check the instructions of a pickle without running any."""
    tuples: set[int | None] = set()
    shared, previous = 0, ""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise RefusedError(f"it holds more than tensors and plain types: the pickle opcode {opcode.name}")
        if opcode.name == "GLOBAL" and argument not in _GLOBALS:
            raise RefusedError(f"it holds more than tensors and plain types: {str(argument)[:80]!r}")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and previous.startswith("TUPLE"):
            tuples.add(argument)
        shared += opcode.name in ("BINGET", "LONG_BINGET") and argument in tuples
        previous = opcode.name
    if shared > MOST_SHARED_TUPLES:
        raise RefusedError(f"{shared} uses of a tuple again")
