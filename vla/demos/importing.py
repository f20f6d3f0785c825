"""Imports demonstrations that were recorded elsewhere: what was seen and what was done, and nothing to judge it by.

The file holds `vla.demos.source.IMPORTED_KEYS` and no more. Simulator states are left behind: those of another version
of robosuite do not repeat here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vla.demos.demo_checks import is_demo_name
from vla.demos.hdf5_checks import UnsafeFileError, attribute_text, check_links, read
from vla.demos.merging import Split, kept_back, new_file, refuse_existing
from vla.demos.schema import BareDemo, demo_names, missing_parts, write_images
from vla.demos.source import IMPORTED, IMPORTED_KEYS, Source
from vla.errors import UserError
from vla.files import sha256
from vla.sim.config import ACTION_DIM, EnvConfig

CAMERA_KEY = f"obs/{EnvConfig.camera}_image"
WIDTHS = {"actions": ACTION_DIM, "obs/robot0_eef_pos": 3, "obs/robot0_eef_quat": 4, "obs/robot0_gripper_qpos": 2}
"""Numbers in a row of each array of a demonstration, beside its images."""


def write_imported(
    output: Path, source: Source, robosuite: str | None, demos: Iterable[tuple[str, BareDemo, Split]]
) -> str:
    """Write demonstrations into a new file; returns what was written and what is missing, in words.

    Args:
        output: file to write.
        source: where they come from.
        robosuite: version that they were recorded with; None: not known.
        demos: the name at the source, the demonstration, and its side of the split, one after another.

    Raises:
        UserError: a demonstration cannot be used, or `output` exists already. Nothing is written then.
    """
    refuse_existing(output)
    counts: dict[Split, int] = {"train": 0, "valid": 0}
    size_px = 0
    with new_file(output) as joined:
        for name, demo, split in demos:
            _check_demo(demo, f"{source.name}: {name}")
            here_px = demo.images.shape[1]
            size_px = size_px or here_px
            if here_px != size_px:
                raise UserError(
                    f"{source.name}: {name} has images of {here_px} px, and those before it {size_px} px; one size is "
                    "needed"
                )
            _write(joined.begin(split), demo)
            counts[split] += 1
        if not counts["train"]:
            raise UserError(f"{source.name} holds no demonstrations for training; import another one")
        attributes = {"env_args": _env_args(size_px, robosuite), IMPORTED: json.dumps(dataclasses.asdict(source))}
        joined.finish(attributes)
    return (
        f"{output}: {sum(counts.values())} demonstrations ({counts['train']} for training, {counts['valid']} for "
        f"validation), images of {size_px} px, from {source}\n"
        f"missing: {', '.join(missing_parts())}\n"
        "so there is no verdict (unjudged) and no target for the auxiliary loss (off); nothing can be replayed, drawn "
        "anew, merged, or added to with --dagger"
    )


def _env_args(size_px: int, robosuite: str | None) -> str:
    """The simulator in which a policy will act, with the version of robosuite that was recorded with."""
    env_args = json.loads(EnvConfig(image_size_px=size_px).to_env_args())
    versions = {} if robosuite is None else {"robosuite": robosuite}
    return json.dumps({**env_args, "env_version": robosuite, "versions": versions})


def _check_demo(demo: BareDemo, where: str) -> None:
    """Check the shapes and ranges of a demonstration; `where` names it.

    Raises:
        UserError: it cannot be used.
    """
    length = len(demo.actions)
    found = {"images": demo.images, "actions": demo.actions, **{f"obs/{k}": v for k, v in demo.observations.items()}}
    size_px = demo.images.shape[1] if demo.images.ndim == 4 else 0
    if demo.images.dtype != np.uint8 or demo.images.shape != (length, size_px, size_px, 3) or not length * size_px:
        raise UserError(
            f"{where} has images {demo.images.shape} {demo.images.dtype} and {length} actions; square RGB images of "
            "uint8 are needed, one for each action"
        )
    for key, width in WIDTHS.items():
        if found[key].shape != (length, width) or not np.isfinite(found[key]).all():
            raise UserError(f"{where} has {key} {found[key].shape}; finite numbers, ({length}, {width}), are needed")
    if np.abs(demo.actions).max() > 1:
        raise UserError(
            f"{where} has actions up to {np.abs(demo.actions).max():g}; robosuite's OSC_POSE deltas lie in [-1, 1]"
        )


def _write(group: h5py.Group, demo: BareDemo) -> None:
    write_images(group, demo.images)
    group.create_dataset("actions", data=demo.actions.astype(np.float32))
    for name, values in demo.observations.items():
        group.create_dataset(f"obs/{name}", data=values.astype(np.float64))
    group.attrs["language_instruction"] = demo.instruction
    group.attrs["episode_length"] = group.attrs["num_samples"] = len(demo)


def import_robomimic(path: Path, output: Path, instruction: str) -> str:
    """Write robomimic's demonstrations of Lift into a new file; returns what was written and what is missing.

    Args:
        path: HDF5 file with `obs/agentview_image`; it is only read.
        output: file to write.
        instruction: that of all demonstrations.

    Raises:
        UserError: `path` cannot be used, or `output` exists already.
    """
    if not path.is_file():
        raise UserError(f"--import {path}: no such file; name an HDF5 file of robomimic")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"--import {path} is not a whole HDF5 file ({str(error).splitlines()[0]})") from None
    with file:
        try:
            _check_links(file)
            env_args = _checked_env_args(file, path)
            source = Source("robomimic", path.name, sha256(path))
            return write_imported(output, source, env_args.get("env_version"), _read(file, path, instruction))
        except UnsafeFileError as error:
            raise UserError(f"{error}; import another one") from None


def _check_links(file: h5py.File) -> None:
    check_links(file, recursive=False)
    for name in ("data", "mask"):
        if isinstance(file.get(name), h5py.Group):
            check_links(file[name], recursive=False)


def _read(file: h5py.File, path: Path, instruction: str) -> Iterator[tuple[str, BareDemo, Split]]:
    names = demo_names(file)
    valid = set(names[len(names) - kept_back(len(names)) :])
    if "mask/valid" in file:
        valid = {attribute_text(name) for name in read(file, "mask/valid")}
    for name in names:
        demo = file["data"][name]
        check_links(demo)
        missing = [key for key in (CAMERA_KEY, *IMPORTED_KEYS[1:]) if not isinstance(demo.get(key), h5py.Dataset)]
        if missing:
            raise UserError(
                f"{path}: {name} lacks {', '.join(missing)}; robomimic's dataset_states_to_obs.py adds observations: "
                f"python -m robomimic.scripts.dataset_states_to_obs --dataset {path} --output_name image.hdf5 "
                f"--done_mode 2 --camera_names {EnvConfig.camera} --camera_height 224 --camera_width 224"
            )
        low = {key.removeprefix("obs/"): read(demo, key) for key in WIDTHS if key != "actions"}
        bare = BareDemo(instruction, read(demo, CAMERA_KEY), read(demo, "actions"), low)
        yield name, bare, "valid" if name in valid else "train"


def _checked_env_args(file: h5py.File, path: Path) -> Mapping[str, Any]:
    """Check that a file holds robomimic's demonstrations of a task that is this one; returns its `env_args`."""
    data = file.get("data")
    if isinstance(data, h5py.Group) and "schema_version" in data.attrs:
        raise UserError(f"{path} is a file of this project already; train on it: python 4_train.py --data {path}")
    if not isinstance(data, h5py.Group) or "env_args" not in data.attrs or not len(data):
        raise UserError(f"{path} is no file of robomimic: it has no demonstrations with env_args; import another one")
    other = [name for name in data if not is_demo_name(name)]
    if other:
        raise UserError(f"{path} is no file of robomimic: it holds {other[0]}, and no demo_N; import another one")
    try:
        env_args = json.loads(data.attrs["env_args"])
        differs = _differences(env_args)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"{path} has env_args that are not robomimic's; import another one") from None
    if differs:
        raise UserError(f"{path} was recorded with {', '.join(differs)}; only Lift as it is here can be imported")
    found: Mapping[str, Any] = env_args
    return found


def _differences(env_args: Mapping[str, Any]) -> list[str]:
    """What of a simulator is not as it is here, in words. What `env_args` do not mention is robosuite's default."""
    kwargs, here = env_args["env_kwargs"], EnvConfig()
    robots = kwargs.get("robots", here.robot)
    controller = kwargs.get("controller_configs") or {}
    arm = controller.get("body_parts", {}).get("right", controller)  # robosuite 1.5 has a controller for each part
    is_delta = arm.get("control_delta", True) and arm.get("input_type", "delta") == "delta"
    facts = (
        ("the environment", env_args["env_name"], "Lift"),
        ("the robot", robots if isinstance(robots, str) else ", ".join(robots), here.robot),
        ("the control frequency", kwargs.get("control_freq", here.control_freq_hz), here.control_freq_hz),
        ("the controller", arm.get("type", "OSC_POSE"), "OSC_POSE"),
        ("actions", "deltas" if is_delta else "absolute", "deltas"),
    )
    return [f"{what} {found} (here: {wanted})" for what, found, wanted in facts if found != wanted]
