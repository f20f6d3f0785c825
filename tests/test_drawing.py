"""What is left out of a picture was not to be seen in it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from vla.sim.config import EnvConfig
from vla.sim.env import Simulator

ARM = np.array([0.0, 0.3, 0.0, -2.2, 0.0, 2.6, 0.7])
"""Joint angles at which the hand is above the table, radians."""


@contextmanager
def _plain_pictures(sim: Simulator) -> Iterator[Callable[[], np.ndarray]]:
    """MuJoCo's own renderer, which draws everything."""
    mujoco: Any = importlib.import_module("mujoco")
    size_px = sim.config.image_size_px
    options = mujoco.MjvOption()
    options.geomgroup[0] = 0

    def draw() -> np.ndarray:
        renderer.update_scene(sim.data, camera=sim.config.camera, scene_option=options)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        picture: np.ndarray = renderer.render()
        return picture

    with mujoco.Renderer(sim.model, size_px, size_px) as renderer:
        yield draw


@pytest.fixture(params=["agentview", "sideview", "robot0_eye_in_hand"])
def pictured(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """A simulator with each kind of camera: one that sees little of the arm, one that sees all, and one that moves."""
    simulator = Simulator(EnvConfig(camera=request.param))
    simulator.reset(1)
    yield simulator
    simulator.close()


def test_pictures_are_those_of_the_plain_renderer(pictured: Simulator) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    model, data, rng = pictured.model, pictured.data, np.random.default_rng(0)
    low, high = model.jnt_range[:7].T
    camera = model.camera(pictured.config.camera)
    with _plain_pictures(pictured) as plain:
        for number in range(12):
            data.qpos[:7] = rng.uniform(low, high) if number % 2 else ARM + rng.normal(scale=0.25, size=7)
            data.qpos[7] = rng.uniform(0, 0.04)
            mujoco.mj_forward(model, data)
            np.testing.assert_array_equal(pictured.render(), plain())
        for moved_m in (0.05, -0.05):  # away, where other triangles are seen, and back
            camera.pos[:] += moved_m
            mujoco.mj_forward(model, data)
            np.testing.assert_array_equal(pictured.render(), plain())


def test_what_hides_the_pedestal_may_become_transparent_or_smaller(sim: Simulator) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    sim.reset(1)
    table = sim.model.geom("table_visual")
    half, rgba = table.size.copy(), table.rgba.copy()
    with _plain_pictures(sim) as plain:
        before = sim.render()
        table.size[:2] = 0.2
        mujoco.mj_forward(sim.model, sim.data)
        np.testing.assert_array_equal(sim.render(), plain())
        assert (sim.render() != before).any()
        table.size[:] = half
        table.rgba[:] = 1, 1, 1, 0.3
        np.testing.assert_array_equal(sim.render(), plain())
        assert (sim.render() != before).any()
        table.rgba[:] = rgba
        np.testing.assert_array_equal(sim.render(), before)


def test_most_meshes_are_left_out_while_the_hand_is_up(sim: Simulator) -> None:
    mujoco: Any = importlib.import_module("mujoco")
    sim.reset(1)
    drawing = sim._drawing
    assert drawing is not None
    scene = drawing._scene
    meshes = [geom for geom in scene.geoms[: scene.ngeom] if geom.type == mujoco.mjtGeom.mjGEOM_MESH]
    assert len(meshes) > 50
    assert sum(geom.dataid == -1 for geom in meshes) > 0.7 * len(meshes)
    assert drawing._still._is_trimmed
