"""The scene "cubes": what lies on the table, that the target belongs to the instruction, and what is a wrong object."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla.demos.recorder import RecordTask, record
from vla.demos.schema import read_demo
from vla.errors import UserError
from vla.evaluation.episode import EpisodeResult, EvaluatedEpisode, run_episode
from vla.evaluation.recordings import write_episodes
from vla.evaluation.rejudge import rejudge_file
from vla.experts.controls import control
from vla.experts.idle import IDLE_STEPS
from vla.experts.scripted import ExpertConfig
from vla.judging.bystanders import Bystanders, CubeStates
from vla.policies.asked import target_of
from vla.sim.config import CUBES, EnvConfig, Placement, Scene
from vla.sim.env import Observation, Simulator
from vla.sim.perturbations import Perturbation
from vla.sim.rollout import Actor, Decision
from vla.sim.table import APART_M, COLOURS, HALF_AREA_M, TableLayout, table_layout

ENV = EnvConfig(scene=Scene("cubes", counts=(2,)))
SEED = 2_000_003
PAIR_SEED = 0
"""A scene that `ask_counterfactuals` asks three things about: either cube, and nothing."""


@pytest.fixture(scope="module")
def cubes() -> Simulator:
    """A simulator of two cubes that renders no images."""
    return Simulator(ENV, render_images=False)


class Astray:
    """The expert, led to another cube than the target, as a policy would be that does not obey."""

    def __init__(self, sim: Simulator, number: int) -> None:
        self._sim, self._number = sim, number
        self._expert = control("expert")

    def reset(self, instruction: str, seed: int) -> None:
        self._expert.reset(instruction, seed)

    def select_action(self, obs: Observation) -> Decision:
        named, self._sim.target = self._sim.target, self._number
        try:
            return self._expert.select_action(self._sim.observe())
        finally:
            self._sim.target = named


def _run(sim: Simulator, actor: Actor, target: int | None, steps: int = 200) -> EvaluatedEpisode:
    sim.target = target
    return run_episode(sim, actor, "", SEED, steps)


@pytest.fixture(scope="module")
def told(cubes: Simulator) -> dict[str, EvaluatedEpisode]:
    """Episodes of one seed: each cube lifted as told, the wrong cube lifted, nothing done and a cube lifted unasked."""
    expert = control("expert")
    return {
        "first": _run(cubes, expert, 0),
        "second": _run(cubes, expert, 1),
        "wrong": _run(cubes, Astray(cubes, 1), 0, 60),
        "idle": _run(cubes, control("zero"), None, 15),
        "unasked": _run(cubes, expert, None, 60),
    }


# Layouts, without a simulator


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_colour_is_equally_likely_at_every_place(count: int) -> None:
    layouts = [table_layout(Scene("cubes", (count,)), seed) for seed in range(1200)]
    drawn = [cube for layout in layouts for cube in layout.cubes]
    table = np.zeros((len(COLOURS), 4))
    for cube in drawn:
        table[list(COLOURS).index(cube.colour), 2 * (cube.x_m > 0) + (cube.y_m > 0)] += 1
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    chi_squared = float(((table - expected) ** 2 / expected).sum())
    assert chi_squared < 27.9  # 9 degrees of freedom, p = 0.001
    shares = table.sum(axis=1) / table.sum()
    np.testing.assert_allclose(shares, 0.25, atol=0.03)
    first = [layout.cubes[0].colour for layout in layouts]
    assert min(first.count(colour) for colour in COLOURS) > 240  # a body has no colour of its own


def test_cubes_lie_in_the_area_apart_from_each_other_and_in_different_colours() -> None:
    for seed in range(300):
        layout = table_layout(Scene("cubes"), seed)
        places = np.array([(cube.x_m, cube.y_m) for cube in layout.cubes])
        distances = np.linalg.norm(places[:, None] - places, axis=2)
        assert (np.abs(places) <= HALF_AREA_M).all()
        assert (distances + np.eye(len(places)) >= APART_M).all()
        assert len({cube.colour for cube in layout.cubes}) == len(layout.cubes)
        assert [cube.body for cube in layout.cubes] == list(CUBES[: len(places)])


def test_two_cubes_of_one_colour_are_told_apart_by_their_places() -> None:
    scene = Scene("cubes", same_colour_share=1.0)
    counts = set()
    for seed in range(60):
        layout = table_layout(scene, seed)
        counts.add(len(layout.cubes))
        assert len({cube.colour for cube in layout.cubes}) == len(layout.cubes) - 1
        assert len({layout.describe(number) for number in range(len(layout.cubes))}) == len(layout.cubes)
    assert counts == {2, 3, 4}


def test_the_scene_survives_the_environment_arguments_and_lift_is_described_as_before() -> None:
    env = EnvConfig(scene=Scene("cubes", (3, 4), 0.25))
    assert EnvConfig.from_env_args(env.to_env_args()) == env
    stored = json.loads(EnvConfig().to_env_args())
    assert stored["env_name"] == "Lift"
    assert stored["scene"] == {"objects": ["cube"], "target": "cube"}
    assert EnvConfig.from_env_args(json.dumps(stored)) == EnvConfig()


def test_what_happened_to_each_cube_is_followed() -> None:
    def state(x_m: float, height_m: float, touched: bool) -> CubeStates:
        return CubeStates(np.array([[0.0, 0, 0], [x_m, 0, 0]]), np.array([0, height_m]), np.array([False, touched]))

    followed = Bystanders.of([state(0, 0, False), state(0.03, 0, True), state(0.01, 0.09, True)])
    assert (followed.first_touched, followed.lifted, followed.moved) == (1, [1], [1])
    assert (followed.touched_step, followed.lifted_step) == ([None, 1], [None, 2])
    assert followed.moved_m.tolist() == [0, 0.03]
    assert followed.others_moved(0) == [1]
    assert followed.others_moved(1) == []


# In the simulator


def test_the_cubes_lie_where_the_seed_says_and_lie_still(cubes: Simulator) -> None:
    cubes.target = 1
    obs = cubes.reset(SEED)
    assert cubes.layout == table_layout(ENV.scene, SEED)
    np.testing.assert_allclose(obs.cubes.pos[:, :2], [(cube.x_m, cube.y_m) for cube in cubes.layout.cubes], atol=1e-9)
    assert obs.evidence.cube_pos.tolist() == pytest.approx(obs.cubes.pos[1].tolist())
    assert cubes.target_yaw_deg() == pytest.approx(cubes.layout.cubes[1].yaw_deg)
    still = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
    before = cubes.state()
    for _ in range(10):
        cubes.advance(still)
    after = cubes.evidence(), cubes.observe().cubes
    np.testing.assert_allclose(after[1].height_m, 0, atol=2e-4)
    np.testing.assert_allclose(after[1].pos[:, :2], obs.cubes.pos[:, :2], atol=1e-6)
    assert after[0].world_change == ""
    assert cubes.declared == ()  # the colours are no perturbation
    parked = [1 + int(cubes.model.joint(f"{name}_joint0").qposadr[0]) for name in CUBES[2:]]
    for first in parked:
        np.testing.assert_allclose(cubes.state()[first : first + 3], before[first : first + 3], atol=2e-4)
        assert before[first] == pytest.approx(2.0)  # behind the camera, which stands at 0.5 m


def test_a_cube_that_is_recoloured_in_an_episode_makes_it_invalid(cubes: Simulator) -> None:
    cubes.target = 0
    cubes.reset(SEED)
    cubes.model.geom("cube2_g0_vis").rgba[0] += 0.5
    try:
        cubes.advance(np.zeros(7, dtype=np.float32))
        assert cubes.evidence().world_change.startswith("geom_rgba of cube2_g0_vis")
    finally:
        cubes.reset(SEED)
    assert cubes.evidence().world_change == ""


def test_the_reward_is_about_the_target(cubes: Simulator) -> None:
    rewards = []
    for cubes.target in (0, 1):
        obs = cubes.reset(SEED)
        rewards.append(
            (cubes.advance(np.zeros(7, dtype=np.float32)), float(np.linalg.norm(obs.eef_pos - obs.evidence.cube_pos)))
        )
    (reward_a, distance_a), (reward_b, distance_b) = rewards
    assert distance_a != pytest.approx(distance_b, abs=1e-3)
    assert (reward_a > reward_b) == (distance_a < distance_b)


@pytest.mark.slow
def test_from_the_same_state_the_named_cube_is_lifted(told: dict[str, EvaluatedEpisode]) -> None:
    first, second = told["first"], told["second"]
    np.testing.assert_array_equal(first.recording.states[0], second.recording.states[0])
    for number, result in enumerate((first.result, second.result)):
        assert result.success, result.verdict
        assert result.judges_agree
        assert (result.target, result.first_touched, result.cubes_lifted) == (number, number, [number])
        assert result.cubes_moved_m[number] > 0.08
        assert result.cubes_moved_m[1 - number] < 0.001
        assert len(result.cube_colours) == 2


@pytest.mark.slow
def test_lifting_another_cube_is_a_failure_with_its_own_name(told: dict[str, EvaluatedEpisode]) -> None:
    result = told["wrong"].result
    layout = table_layout(ENV.scene, SEED)
    assert (result.success, result.failure_kind, result.failed) == (False, "wrong_object", "wrong_object")
    assert f"wrong object: {layout.describe(1)} was lifted" in result.verdict
    assert (result.first_touched, result.cubes_lifted) == (1, [1])
    assert result.judges_agree


@pytest.mark.slow
def test_where_nothing_is_to_be_moved_only_stillness_succeeds(told: dict[str, EvaluatedEpisode]) -> None:
    idle, unasked = told["idle"].result, told["unasked"].result
    assert idle.success, idle.verdict
    assert (idle.target, idle.first_touched, idle.cubes_lifted, idle.failure_kind) == (None, None, [], None)
    assert max(idle.cubes_moved_m) < 0.001
    assert (unasked.success, unasked.failure_kind) == (False, "not_still")
    assert idle.judges_agree
    assert unasked.judges_agree


@pytest.mark.slow
def test_recorded_episodes_are_judged_again_with_their_targets(
    told: dict[str, EvaluatedEpisode], tmp_path: Path
) -> None:
    episodes = list(told.values())
    write_episodes(tmp_path / "episodes.hdf5", ENV, episodes)
    again = rejudge_file(tmp_path / "episodes.hdf5")
    assert [episode.second.success for episode in again] == [True, True, False, True, False]
    assert all(episode.agree for episode in again)


@pytest.mark.slow
def test_demonstrations_of_one_scene_differ_in_the_instruction_alone(cubes: Simulator, tmp_path: Path) -> None:
    part = tmp_path / "part.hdf5"
    task = RecordTask(part, None, (PAIR_SEED,), 200, ExpertConfig(), demos_per_seed=3)
    assert record(cubes, task) == []
    with h5py.File(part, "r") as file:
        demos = [read_demo(group) for group in file.values()]
    layout = table_layout(ENV.scene, PAIR_SEED)
    assert sorted(str(demo.target) for demo in demos) == ["0", "1", "None"]
    assert [(demo.layout, demo.seed) for demo in demos] == 3 * [(layout, PAIR_SEED)]
    assert [demo.target for demo in demos] == [target_of(demo.instruction, layout) for demo in demos]
    for demo in demos:
        assert demo.verdict().success
        np.testing.assert_array_equal(demo.states[0], demos[0].states[0])
        assert demo.observations["cubes_pos"].shape == (len(demo), 2, 3)
        np.testing.assert_array_equal(
            demo.observations["cubes_pos"][:, demo.target or 0], demo.observations["cube_pos"]
        )
        if demo.target is None:
            assert len(demo) == IDLE_STEPS
            assert not demo.actions[:, :6].any()
            assert demo.executed_actions[:, :6].any()
        else:
            assert not replace(demo, target=1 - demo.target).verdict().success
            assert not replace(demo, target=None).verdict().success


def test_what_the_scene_does_not_have_is_refused(cubes: Simulator) -> None:
    with pytest.raises(ValueError, match="4 cubes, no number 4"):
        cubes.target = 4
    cubes.target = 3
    with pytest.raises(UserError, match="has 2 cubes, no number 3"):
        cubes.reset(SEED)
    cubes.target = 0
    cubes.placement = Placement(0.0, 0.0)
    try:
        with pytest.raises(UserError, match="draws the places"):
            cubes.reset(SEED)
    finally:
        cubes.placement = None
    for axis in ("placement", "cube-colour"):
        cubes.perturbation = Perturbation(axis, 1)
        try:
            with pytest.raises(UserError, match="scene cubes"):
                cubes.reset(SEED)
        finally:
            cubes.perturbation = None
    cubes.reset(SEED)


def test_a_layout_survives_json() -> None:
    layout = table_layout(Scene("cubes", (4,)), 5)
    assert TableLayout.from_json(layout.to_json()) == layout
    assert EpisodeResult.__dataclass_fields__["target"].default == 0  # older results have one cube
