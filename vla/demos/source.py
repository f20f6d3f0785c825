"""Imported demonstrations: what they hold, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass

import h5py

IMPORTED = "imported"
"""Attribute of the group `data` in a file that was not recorded here: JSON, the fields of `Source`."""
IMPORTED_KEYS = ("images", "actions", "obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos")
IMPORTED_ATTRIBUTES = ("language_instruction", "episode_length")
"""All that an imported demonstration holds. What else a demonstration holds is optional only in such a file."""


@dataclass(frozen=True)
class Source:
    """Where imported demonstrations come from."""

    format: str
    """robomimic or LeRobot."""
    name: str
    """Name of the file or the folder."""
    sha256: str
    """Hash of its content."""

    def __str__(self) -> str:
        return f"{self.format}: {self.name}, SHA-256 {self.sha256[:12]}"

    @classmethod
    def of(cls, file: h5py.File) -> Source | None:
        """Source of an open file of demonstrations; None: they were recorded here."""
        stored = file["data"].attrs.get(IMPORTED)
        return None if stored is None else cls(**{name: str(value) for name, value in json.loads(stored).items()})
