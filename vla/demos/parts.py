"""The folder of an unfinished collection: a file for each demonstration, and the settings it was begun with.

It lets an interrupted collection continue, and disappears when the demonstrations have been merged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.demos.schema import SCHEMA_VERSION
from vla.errors import UserError
from vla.files import is_temporary, write_text
from vla.sim.config import installed_versions


def prepare_parts(output: Path, settings: Mapping[str, Any], numbers: range, overwrite: bool | None) -> dict[int, Path]:
    """Make the folder; returns a path for each demonstration, some of which an interrupted run may have recorded.

    Args:
        output: the file that the demonstrations will be merged into; the folder lies beside it.
        settings: what decides the content of the demonstrations, as JSON types.
        numbers: the numbers of the demonstrations.
        overwrite: discard demonstrations that were recorded with other settings; None: the command has no such option.

    Raises:
        UserError: the folder holds demonstrations that were recorded with other settings, and `overwrite` is not True.
    """
    folder = _folder(output)
    settings_file = _settings_file(folder)
    asked = _with_versions(settings)
    begun = json.loads(settings_file.read_text()) if settings_file.exists() else asked
    if begun != asked:
        if not overwrite:
            differing = [name for name in asked if begun.get(name) != asked[name]]
            there = {name: begun.get(name) for name in differing}
            here = {name: asked[name] for name in differing}
            count = len(_recorded(folder))
            give_up = f"delete the folder with its {count} demonstrations"
            if overwrite is not None:
                give_up = f"give up its {count} demonstrations with --overwrite"
            raise UserError(
                f"{folder} holds an interrupted collection with {there}, this one has {here}; finish it with that "
                f"command and those versions, or name another --output (or {give_up})"
            )
        remove_parts(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(settings_file, json.dumps(asked))
    return {number: folder / f"demo_{number:05d}.hdf5" for number in numbers}


def remove_parts(output: Path) -> None:
    """Delete the files that the collection wrote into the folder, and the folder where it holds nothing else."""
    folder = _folder(output)
    if not folder.is_dir():
        return
    half_written = [path for path in folder.iterdir() if is_temporary(path)]
    for path in (*_recorded(folder), *half_written, _settings_file(folder)):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def remove_parts_of(output: Path, settings: Mapping[str, Any]) -> None:
    """Like `remove_parts`, if the folder was begun with these settings and versions; otherwise it stays."""
    settings_file = _settings_file(_folder(output))
    if settings_file.exists() and json.loads(settings_file.read_text()) == _with_versions(settings):
        remove_parts(output)


def _with_versions(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "versions": installed_versions(), "schema_version": SCHEMA_VERSION}


def _folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.parts")


def _settings_file(folder: Path) -> Path:
    return folder / "settings.json"


def _recorded(folder: Path) -> list[Path]:
    return list(folder.glob("demo_*.hdf5"))
