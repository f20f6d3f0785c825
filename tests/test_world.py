"""The watch over the world: every change that nobody declared is found, and makes an episode INVALID."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from vla.judging.verdict import Judge
from vla.judging.world import WorldWatch
from vla.sim.effect import Effect
from vla.sim.env import Simulator
from vla.sim.model_edits import restored

STILL = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)


@pytest.fixture(scope="module")
def blind_sim() -> Simulator:
    """A simulator that renders no images."""
    return Simulator(render_images=False)


@pytest.fixture
def world(blind_sim: Simulator) -> Iterator[Simulator]:
    blind_sim.reset(0)
    with restored(blind_sim.model):
        yield blind_sim


def _field(sim: Simulator, name: str) -> Any:
    """The array of a watched field: of the model's options, the model or the state."""
    if name.startswith("opt."):
        return getattr(sim.model.opt, name.removeprefix("opt."))
    return getattr(sim.model, name, None) if hasattr(sim.model, name) else getattr(sim.data, name)


def test_a_change_of_any_array_is_found_and_a_declared_one_is_not(world: Simulator) -> None:
    watch = WorldWatch(world.model, world.data)
    watch.remember()
    arrays = {name: _field(world, name) for name in watch.fields if name != "time"}
    arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.size}
    assert {"geom_size", "body_mass", "geom_friction", "opt.gravity", "xfrc_applied", "qpos", "cam_pos"} < set(arrays)
    assert len(arrays) > 200
    for name, array in arrays.items():
        before = array.copy()
        array.reshape(-1)[-1:] = ~array.reshape(-1)[-1:] if array.dtype == bool else array.reshape(-1)[-1:] + 1
        assert watch.check(world.model, world.data).startswith(name), name
        watch.begin()
        watch.remember()
        watch.declare(name)
        assert watch.check(world.model, world.data) == "", name
        array[...] = before
        watch.begin()
        watch.remember()


def test_a_change_of_any_option_is_found(world: Simulator) -> None:
    options = [name for name in dir(world.model.opt) if not name.startswith("_")]
    scalars = [name for name in options if not isinstance(getattr(world.model.opt, name), np.ndarray)]
    assert {"timestep", "density", "disableflags", "impratio", "cone"} <= set(scalars)
    for name in scalars:
        watch = WorldWatch(world.model, world.data)
        before = getattr(world.model.opt, name)
        setattr(world.model.opt, name, before + 1)
        assert watch.check(world.model, world.data) == f"opt.{name} from {before} to {before + 1}"
        setattr(world.model.opt, name, before)


def _sink_table(sim: Simulator) -> None:
    sim.model.body_pos[sim.model.body("table").id, 2] -= 0.12


def _carry(sim: Simulator) -> None:
    sim.data.xfrc_applied[sim.model.body("cube_main").id, 2] = 0.1


def _turn_clock(sim: Simulator) -> None:
    sim.data.time += 0.001


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_sink_table, "body_pos of table from [0.   , 0.   , 0.775] to [0.   , 0.   , 0.655]"),
        (_carry, "xfrc_applied of cube_main"),
        (_turn_clock, "time from 0.050 to 0.051 s between two steps"),
    ],
)
def test_the_episode_is_invalid_and_says_what_changed(
    world: Simulator, change: Callable[[Simulator], None], words: str
) -> None:
    judge = Judge()
    judge.start(world.evidence())
    judge.update(world.step(STILL)[0].evidence)
    change(world)
    judge.update(world.step(STILL)[0].evidence)
    assert judge.verdict().failed == "unchanged"
    assert judge.verdict().step == 2
    assert f"nobody declared it: {words}" in judge.explain()


def test_a_force_that_is_gone_when_the_judge_looks_is_found(world: Simulator) -> None:
    _carry(world)
    world.advance(STILL)
    world.data.xfrc_applied[:] = 0
    assert world.evidence().world_change.startswith("xfrc_applied")


class _HiddenForce(Effect):
    """Carries the cube during each step, and takes the force back when the image is drawn."""

    def before_step(self, sim: Any, step: int) -> None:
        self._sim = sim
        _carry(sim)

    def draw(self, scene: Any) -> None:
        self._sim.data.xfrc_applied[:] = 0


def test_a_force_that_is_gone_when_the_image_is_drawn_is_found(
    world: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = _HiddenForce(0.0, np.random.default_rng(0))
    monkeypatch.setattr(world, "_effect", effect)
    monkeypatch.setattr(world, "render", lambda: effect.draw(None))  # this simulator draws nothing
    observation, _ = world.step(STILL)
    assert observation.evidence.world_change.startswith("xfrc_applied")


def test_a_clock_that_the_physics_did_not_drive_is_found(world: Simulator) -> None:
    import mujoco  # here: imported before a simulator has chosen the GL backend, it could not draw

    step = world._env.step

    def fast(action: np.ndarray) -> Any:
        done = step(action)
        mujoco.mj_step(world.model, world.data)
        world.data.time -= world.model.opt.timestep
        return done

    world._env.step = fast
    try:
        world.advance(STILL)
    finally:
        world._env.step = step
    assert world.evidence().world_change == "time advanced by 50.0 ms, the physics by 52.0"


def test_a_callback_and_a_replaced_state_are_found(world: Simulator) -> None:
    import mujoco

    watch = WorldWatch(world.model, world.data)
    mujoco.set_mjcb_passive(lambda model, data: None)
    try:
        assert watch.check(world.model, world.data) == "a global callback of MuJoCo was set"
    finally:
        mujoco.set_mjcb_passive(None)
    watch.begin()
    assert "replaced" in watch.check(world.model, mujoco.MjData(world.model))


def test_a_changed_mesh_is_found_at_the_end(world: Simulator) -> None:
    judge = Judge()
    judge.start(world.evidence())
    world.confirm(judge)
    assert judge.invalid_reason is None
    before = world.model.mesh_vert.copy()
    world.model.mesh_vert[0] += 0.01
    world.confirm(judge)
    world.model.mesh_vert[:] = before
    assert "mesh_vert" in judge.explain()


def test_what_was_declared_is_listed_and_forgotten_at_the_reset(world: Simulator) -> None:
    world.push_cube(np.array([0.1, 0.0]))
    assert world.declared == ("qvel",)
    assert world.step(STILL)[0].evidence.world_change == ""
    world.reset(0)
    assert world.declared == ()
    with pytest.raises(ValueError, match=r"no fields \['gravity'\]"):
        world.declare("gravity")


def test_a_finger_whose_mesh_is_changed_and_put_back_is_found(world: Simulator) -> None:
    """The comparison at the end would not see it."""
    finger = world.model.geom("gripper0_right_finger1_collision")
    mesh = world.model.mesh(int(finger.dataid[0]))
    first, count = int(mesh.vertadr[0]), int(mesh.vertnum[0])
    rows = world.model.mesh_vert[first : first + count]
    before = rows.copy()
    rows *= 1.3
    world.advance(STILL)
    rows[:] = before
    assert world.evidence().world_change.startswith(f"mesh_vert of {mesh.name}")


def test_a_declared_option_allows_no_other(world: Simulator) -> None:
    world.model.opt.density, world.model.opt.viscosity = 1.0, 1.0
    world.declare("opt.density")
    assert world.step(STILL)[0].evidence.world_change == "opt.viscosity from 2e-05 to 1.0"
