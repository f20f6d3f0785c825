"""The simulator: it repeats episodes, reports divergence, and is rebuilt from its own description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla.demos.schema import open_demos, read_demo
from vla.errors import UserError
from vla.judging.verdict import Judge
from vla.sim.config import TEST_SEEDS, TRAIN_SEEDS, VALIDATION_SEEDS, EnvConfig, Scene, version_drift
from vla.sim.env import SimulationDivergedError, Simulator
from vla.sim.model_edits import resize_cube, restored, scale_mass
from vla.sim.rollout import Step


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_a_cube_of_another_mass_moves_as_newton_says(sim: Simulator, factor: float) -> None:
    sim.reset(0)
    cube, velocity = sim.model.body("cube_main").id, sim.cube_velocity_addresses()
    with restored(sim.model):
        scale_mass(sim.model, "cube", factor)
        resize_cube(sim.model, "cube", 0.8)
        sim.data.qpos[sim.cube_addresses()[2]] += 0.1
        sim.data.xfrc_applied[cube] = [0.0, 0.0, 1.0, 0.0, 0.0, 1e-3]
        sim.changed_by_hand()
        mass, inertia = sim.model.body_mass[cube], sim.model.body_inertia[cube]
        assert sim.data.qacc[velocity[2]] == pytest.approx(1.0 / mass - 9.81, rel=1e-3)
        assert sim.data.qacc[velocity[5]] == pytest.approx(1e-3 / inertia[2], rel=1e-3)
    sim.data.xfrc_applied[:] = 0.0


def _run(sim: Simulator, seed: int, steps: int = 15) -> tuple[np.ndarray, np.ndarray]:
    sim.reset(seed)
    action = np.array([0.4, -0.2, -0.5, 0.0, 0.0, 0.0, 1.0], dtype=np.float32)
    for _ in range(steps):
        observation, _ = sim.step(action)
    return sim.state(), observation.image


def test_same_seed_gives_the_same_episode_whatever_ran_before(sim: Simulator) -> None:
    state, image = _run(sim, 7)
    _run(sim, 8, steps=40)
    again, image_again = _run(sim, 7)
    np.testing.assert_array_equal(state, again)
    np.testing.assert_array_equal(image, image_again)


def test_different_seeds_place_the_cube_differently(sim: Simulator) -> None:
    places = np.stack([sim.reset(seed).evidence.cube_pos[:2] for seed in range(20)])
    assert np.ptp(places, axis=0).min() > 0.03
    assert np.abs(places).max() <= 0.031


def test_image_is_upright_rgb(sim: Simulator) -> None:
    image = sim.reset(0).image
    assert image.shape == (224, 224, 3)
    assert image.dtype == np.uint8
    assert image[-20:].mean() > 230  # the white table is at the bottom
    assert image[:20].mean() < 180  # wall and robot at the top
    red = image[..., 0] > 2 * image[..., 1:].max(axis=-1).astype(int)
    assert 100 < red.sum() < 1000  # a red cube of some 17 pixels, not a blue one


def test_recorded_actions_replay_to_the_same_states_and_pixels(sim: Simulator, demo_file: Path) -> None:
    """Replays the noisy actions of a file: the images of control are those of training."""
    with open_demos(demo_file) as file:
        demo = read_demo(file["data/demo_1"])
    observation = sim.reset(demo.seed)
    for row, action in enumerate(demo.executed_actions):
        np.testing.assert_array_equal(sim.state(), demo.states[row])
        np.testing.assert_array_equal(observation.image, demo.images[row])
        observation, _ = sim.step(action)


def test_states_restore_position_and_evidence(sim: Simulator, expert_episode: tuple[list[Step], Judge]) -> None:
    step = expert_episode[0][-1]
    sim.reset(0)
    sim.set_state(step.state)
    np.testing.assert_allclose(sim.state(), step.state)
    assert sim.evidence().height_m == pytest.approx(step.observation.evidence.height_m, abs=1e-6)


def test_env_args_rebuild_the_environment() -> None:
    config = EnvConfig(horizon_steps=77, model_seed=5)
    assert EnvConfig.from_env_args(config.to_env_args()) == config
    assert version_drift(config.to_env_args()) is None
    drift = version_drift(config.to_env_args().replace('"mujoco": "', '"mujoco": "0.'))
    assert drift is not None
    assert "mujoco" in drift


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.array([np.inf, 0, 0, 0, 0, 0, 0]), np.zeros(6)])
def test_actions_of_another_shape_or_not_finite_are_refused(sim: Simulator, bad: np.ndarray) -> None:
    sim.reset(0)
    with pytest.raises(SimulationDivergedError):
        sim.step(bad)


def test_divergence_is_reported_although_mujoco_resets_itself_without_an_error(sim: Simulator) -> None:
    sim.reset(0)
    sim.data.qvel[:] = 1e15
    with pytest.raises(SimulationDivergedError, match="bad values"):
        sim.step(np.zeros(7))


@pytest.mark.parametrize("counts", [(), (1,), (2, 5)])
def test_a_scene_holds_no_other_number_of_cubes(counts: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="2 to 4 cubes"):
        Scene("cubes", counts)


def test_seed_ranges_are_disjoint() -> None:
    ranges = [set(r[:: len(r) // 7]) | {r[0], r[-1]} for r in (TRAIN_SEEDS, VALIDATION_SEEDS, TEST_SEEDS)]
    assert not ranges[0] & ranges[1]
    assert not ranges[1] & ranges[2]
    assert TRAIN_SEEDS.stop <= VALIDATION_SEEDS.start
    assert VALIDATION_SEEDS.stop <= TEST_SEEDS.start
