"""Draws the demonstrations of a file anew, from their stored states: with another camera, or in another size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np

from vla.demos.hdf5_checks import attribute_text
from vla.demos.remaking import LEFT_OUT, RemakeTask, remake
from vla.demos.schema import IMAGE_SUFFIX, checked_demo, demo_array, open_demos, scene_of, write_images
from vla.errors import UserError
from vla.files import atomic_path
from vla.sim.config import EnvConfig, version_drift
from vla.sim.env import Simulator
from vla.sim.workers import simulator


def render_in_worker(task: RemakeTask) -> None:
    """Draw a demonstration with this worker's simulator, and copy everything else of it."""
    sim = simulator()
    with h5py.File(task.path, "r") as source:
        demo = checked_demo(source, task.name)
        images = _draw(sim, demo)
        with atomic_path(task.part) as temporary, h5py.File(temporary, "w") as file:
            file.attrs[LEFT_OUT] = ""
            group = file.create_group(task.name)
            group.attrs.update(demo.attrs)
            write_images(group, images, sim.config.camera)
            for key in demo:
                if key not in ("images", "obs"):
                    source.copy(demo[key], group, name=key)
            for key in demo["obs"]:
                if not key.endswith(IMAGE_SUFFIX):
                    source.copy(demo[f"obs/{key}"], group["obs"], name=key)


def _draw(sim: Simulator, demo: h5py.Group) -> np.ndarray:
    """The images of a demonstration, (T, H, H, 3) uint8."""
    layout, sim.target = scene_of(demo)
    sim.reset(int(demo.attrs["seed"]))  # colours the cubes
    states = demo_array(demo, "states")
    if layout not in (None, sim.layout) or states.shape[1] != len(sim.state()):
        raise UserError(
            f"{demo.file.filename}: {Path(demo.name).name} does not belong to the scene of its seed; compare with: "
            f"python 1_collect_demos.py --replay {demo.file.filename}"
        )
    return np.stack([sim.render_state(state) for state in states])


def render_file(path: Path, output: Path, camera: str | None, size_px: int | None, workers: int) -> EnvConfig:
    """Write the demonstrations of a file into a new one with other images; returns the new file's simulator.

    Args:
        path: file of demonstrations; it is only read.
        output: file to write.
        camera: robosuite's name of the camera; None: as in `path`.
        size_px: height and width of the images; None: as in `path`.
        workers: simulator processes.

    Raises:
        UserError: the file cannot be used or was made with other versions, the scene has no such camera, or `output`
            exists already.
        MachineError: a simulator failed.
    """
    with open_demos(path) as source:
        env_args = attribute_text(source["data"].attrs["env_args"])
        drift = version_drift(env_args)
        if drift:
            raise UserError(
                f"{path} was made with other versions ({drift}), and one file holds one simulator's episodes; install "
                "those versions to draw it"
            )
        stored = EnvConfig.from_env_args(env_args)
        env = dataclasses.replace(stored, camera=camera or stored.camera, image_size_px=size_px or stored.image_size_px)
        remake(source, output, render_in_worker, env, {"camera": env.camera, "size_px": env.image_size_px}, workers)
    return env
