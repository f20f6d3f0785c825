"""Checks on an HDF5 file that may come from anybody: nothing outside of it is read, and reading takes bounded memory.

HDF5 can point to other files (external links, external storage, virtual datasets), claim any size without storing a
byte of it (fill values), and load a plug-in to unpack a chunk. Our own files do none of it, so that none is allowed.

Links are checked when a file or one of its demonstrations is opened, arrays when they are read.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from vla.errors import UserError

MOST_ARRAY_BYTES = 1024**3
"""Largest array that is read whole: 7,000 frames of 224 px, 35 times the longest demonstration."""
MOST_CHUNK_BYTES = 64 * 1024**2
"""Largest chunk, which HDF5 unpacks whole for any part of it; ours have 37 KB."""
MOST_INFLATION = 100
"""Largest ratio of an array's size to what the file stores of it; our pictures have 8 to 20."""
SMALL_BYTES = 16 * 1024**2
"""Arrays up to this size may be empty, or anything else that packs well."""
MOST_TEXT = 4 * 1024**2
"""Characters of a text among several."""
FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
"""Filters that h5py itself brings."""
_ARRAY_CLASSES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING, h5py.h5t.ENUM)
"""Types that are not references, compounds, or lists of any length; h5py stores truth values as an enumeration."""

Shape = tuple[Any, ...]
"""A shape whose axes are lengths, None for any length, and last `...` for any further axes."""


class UnsafeFileError(UserError):
    """What is wrong with a file, beginning with its path. Whoever opened it adds what mends it."""


def check_links(group: h5py.Group, recursive: bool = True) -> set[str]:
    """Check that a group has only what it holds itself: no link to another file or by another name.

    Args:
        group: of a file that was just opened.
        recursive: everything below it, too; each object once, because several may be one.

    Returns:
        The names of its members, and of theirs.

    Raises:
        UnsafeFileError: there is such a link.
    """
    names: set[str] = set()
    refused: list[str] = []

    def look(name: bytes, link: h5py.h5l.LinkInfo) -> bool | None:
        if link.type == h5py.h5l.TYPE_HARD:
            names.add(name.decode(errors="replace"))
            return None
        refused.append(name.decode(errors="replace")[:80])
        return True  # ends the visit

    links = group.id.links
    if recursive:
        links.visit(look, info=True)
    else:
        links.iterate(look, info=True)
    if refused:
        raise _refusal(group, refused[0], "is a soft or an external link, which is not followed")
    return names


def array(group: h5py.Group, name: str, is_whole: bool = True) -> h5py.Dataset:
    """A dataset of numbers, or of texts of one length, that is inside the file and has the size that it claims.

    Args:
        group: the group.
        name: its name there.
        is_whole: it will be read whole, and must not be larger than `MOST_ARRAY_BYTES`.

    Raises:
        UnsafeFileError: it is none.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset):
        raise _refusal(group, name, "is no array")
    if found.id.get_type().get_class() not in _ARRAY_CLASSES or found.dtype.kind not in "biufS":
        raise _refusal(group, name, f"holds values of type {str(found.dtype)[:40]}")
    what = _storage_fault(found, is_whole)
    if what is not None:
        raise _refusal(group, name, what)
    return found


def read(group: h5py.Group, name: str, shape: Shape | None = None, finite: bool = True) -> np.ndarray:
    """Read a dataset whole.

    Args:
        group: the group.
        name: its name there.
        shape: the shape that it must have; None: any.
        finite: refuse NaN and infinity.

    Raises:
        UnsafeFileError: `array` refuses it, its shape is another, it holds NaN or infinity unasked, or it is damaged.
    """
    found = array(group, name)
    if shape is not None and not _fits(found.shape, shape):
        wanted = str(shape).replace("Ellipsis", "...")
        raise _refusal(group, name, f"has the shape {found.shape}, not {wanted}")
    try:
        values = np.asarray(found[()])
    except OSError as error:  # a damaged chunk
        raise _refusal(group, name, f"cannot be read ({str(error).splitlines()[0][:120]})") from None
    if finite and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise _refusal(group, name, "holds numbers that are not finite")
    return values


def read_texts(group: h5py.Group, name: str) -> list[str]:
    """Read a dataset of texts of any length, one at a time: many can be one long text.

    Raises:
        UnsafeFileError: it is none, or a text is too long.
    """
    found = group.get(name)
    if not isinstance(found, h5py.Dataset) or h5py.check_string_dtype(found.dtype) is None or found.ndim != 1:
        raise _refusal(group, name, "is no list of texts")
    what = _storage_fault(found)
    if what is not None:
        raise _refusal(group, name, what)
    texts = []
    for row in range(len(found)):
        try:
            texts.append(found[row].decode())
        except UnicodeDecodeError:
            raise _refusal(group, name, "is no list of texts") from None
        if len(texts[-1]) > MOST_TEXT:
            raise _refusal(group, name, f"holds a text of {len(texts[-1])} characters")
    return texts


def check_attributes(held: h5py.Group) -> None:
    """Check that each attribute of a group is one number or one text: an array of texts can be one long text often.

    Raises:
        UnsafeFileError: one is something else.
    """
    for number in range(h5py.h5a.get_num_attrs(held.id)):
        attribute = h5py.h5a.open(held.id, index=number)
        if attribute.shape != () or attribute.get_type().get_class() not in _ARRAY_CLASSES:
            raise _refusal(
                held, attribute.name.decode(errors="replace")[:80], "is an attribute of no number and no text"
            )


def attribute_text(value: str | bytes) -> str:
    """Text of a string attribute: h5py reads one of HDF5's two kinds of string as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _storage_fault(found: h5py.Dataset, is_whole: bool = True) -> str | None:
    """Say what is wrong with where a dataset is stored, how it is packed, or how much it claims; None: nothing."""
    created = found.id.get_create_plist()
    if found.is_virtual or created.get_external_count():
        return "is stored in another file, which is not opened"
    unknown = [code for code, *_ in map(created.get_filter, range(created.get_nfilters())) if code not in FILTERS]
    if unknown:
        return f"is packed by a filter that is not used here, number {unknown[0]}"
    if found.shape is None:
        return "is empty"
    claimed = math.prod(found.shape) * found.dtype.itemsize
    chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
    stored = found.id.get_storage_size()
    if (is_whole and claimed > MOST_ARRAY_BYTES) or chunk > MOST_CHUNK_BYTES:
        return f"claims {claimed:.3g} bytes in chunks of {chunk:.3g}, more than is read"
    if claimed > max(SMALL_BYTES, MOST_INFLATION * stored):
        return f"claims {claimed:.3g} bytes, and the file stores {stored:.3g} of them"
    return None


def _fits(found: tuple[int, ...], wanted: Shape) -> bool:
    if wanted[-1:] == (...,):
        found, wanted = found[: len(wanted) - 1], wanted[:-1]
    return len(found) == len(wanted) and all(one in (None, other) for one, other in zip(wanted, found, strict=True))


def _refusal(group: h5py.Group, name: str, what: str) -> UnsafeFileError:
    """The error about a member of a group."""
    inside = [part for part in (group.name.strip("/"), name) if part]
    return UnsafeFileError(f"{group.file.filename}: {'/'.join(inside)} {what}")
