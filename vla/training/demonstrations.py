"""The demonstrations that a training run uses, and what tells them from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py

from vla import stages
from vla.demos.hdf5_checks import attribute_text
from vla.demos.index import read_index
from vla.demos.schema import checked_demos, demo_array, demo_names, open_demos
from vla.demos.source import Source
from vla.errors import UserError
from vla.files import sha256
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import EnvConfig, warn_of_version_drift


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations chosen from a file, by split."""

    path: Path
    names: dict[str, list[str]]
    """Names for 'train' and 'valid', in the order of the file."""
    instructions: list[str]
    """Every instruction in the file, sorted; in the scene lift the report's eight, too."""
    frame_count: int
    """Frames of all of them."""
    picture_shape: tuple[int, ...]
    """Of the first one's, (H, W, 3)."""
    env_args: str
    """Scene and simulator of the file (`vla.sim.config.EnvConfig.to_env_args`)."""
    file_sha256: str
    """Hash of the whole file."""
    content_sha256: str | None
    """Hash of the chosen demonstrations alone (`content_hash`)."""
    source: Source | None
    """Where imported demonstrations come from; they do not say where the cube is. None: recorded here."""

    @classmethod
    def select(cls, path: Path, exclude: Path | None, num_demos: int | None) -> Demonstrations:
        """Choose the first `num_demos` training demonstrations (None: all), without those on the exclusion list.

        Raises:
            UserError: the file or the list cannot be used, or the file holds fewer.
        """
        loader = stages.dataset_loader()
        with open_demos(path, imported=True) as file:
            env_args = attribute_text(file["data"].attrs["env_args"])
            warn_of_version_drift(env_args, str(path))
            in_file = {row.instruction for row in read_index(file).values()}
            if EnvConfig.from_env_args(env_args).scene.kind == "lift":
                in_file |= set(INSTRUCTIONS)
            names = {split: loader.selected_names(file, split, exclude) for split in ("train", "valid")}
            available = len(names["train"])
            if num_demos is not None and num_demos > available:
                raise UserError(
                    f"--num-demos {num_demos}: {path} has {available} for training; give fewer, or collect more with: "
                    "python 1_collect_demos.py --num-episodes N --output NEW_FILE"
                )
            names["train"] = names["train"][:num_demos]
            frame_count, picture = loader.frame_count(file, [*names["train"], *names["valid"]])
            content = content_hash(file, names)
            source = Source.of(file)
        return cls(path, names, sorted(in_file), frame_count, picture, env_args, sha256(path), content, source)


def content_hash(file: h5py.File, names: Mapping[str, Iterable[str]]) -> str | None:
    """Hex digest of the seeds and actions of the named demonstrations; None if the file lacks one of them.

    Unlike the hash of the file, it stays the same when more demonstrations are added behind these.
    """
    digest = hashlib.sha256()
    held = set(demo_names(file))
    for split in ("train", "valid"):
        if not held.issuperset(names[split]):
            return None
        for name, demo in checked_demos(file, names[split]):
            digest.update(f"{split} {name} {demo.attrs.get('seed')}".encode())  # an imported one has no seed
            digest.update(demo_array(demo, "actions").tobytes())
    return digest.hexdigest()
