"""What is reported of an episode, the controls, the second judge, the comparison, results.json and the report."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import cast

import h5py
import imageio.v2 as imageio
import numpy as np
import pytest
import torch

import vla.training.rollout_validation
from tests.conftest import ROOT, run_script
from vla.errors import UserError
from vla.evaluation.episode import EvaluatedEpisode, run_episode
from vla.evaluation.html_report import write_report
from vla.evaluation.milestones import PHASES, count_losses
from vla.evaluation.paired import check_same_episodes, comparison
from vla.evaluation.plan import control_subject
from vla.evaluation.recordings import write_episodes
from vla.evaluation.rejudge import rejudge_file
from vla.evaluation.results_json import results_json
from vla.evaluation.tables import failure_table, push_line, push_summary
from vla.experts.controls import control
from vla.judging.second_judge import rejudge
from vla.judging.thresholds import Thresholds
from vla.policies.network import PolicyNetwork
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.config import EnvConfig, Placement
from vla.sim.env import Simulator
from vla.sim.perturbations import Perturbation
from vla.training.rollout_validation import RolloutValidation


@pytest.fixture(scope="module")
def lifted(sim: Simulator) -> EvaluatedEpisode:
    return run_episode(sim, control("expert"), "Pick up the cube", 2_000_000, 120, push=True)


def test_an_episode_report_tells_the_story_of_a_lift(lifted: EvaluatedEpisode) -> None:
    result, recording = lifted.result, lifted.recording
    assert result.success
    assert result.phase == "held"
    assert list(result.phase_times_s) == list(PHASES)
    assert list(result.phase_times_s.values()) == sorted(result.phase_times_s.values())
    assert result.phase_times_s["held"] == pytest.approx(result.steps / 20, abs=0.051)
    assert (result.gripper_closures, result.regrasps, result.drops) == (1, 0, 0)
    assert 0.2 < result.path_m < 1.0
    assert result.cube_x_m == pytest.approx(0, abs=0.031)
    assert result.cube_yaw_deg == pytest.approx(0, abs=45)
    assert result.push_m is not None
    assert result.push_m < 0.008
    assert recording.states.shape[0] == result.steps + 1
    assert recording.strip is not None
    assert recording.strip.shape == (96, 8 * 96, 3)


@pytest.mark.slow
def test_a_cube_that_is_taken_away_is_a_drop_and_a_regrasp(sim: Simulator) -> None:
    sim.perturbation = Perturbation("snatch", 2)
    try:
        result = run_episode(sim, control("expert"), "Pick up the cube", 2_000_000, 150).result
    finally:
        sim.perturbation = None
    assert result.success
    assert (result.drops, result.regrasps) == (1, 1)


@pytest.mark.parametrize("kind", ["zero", "random", "always-close", "nan"])
def test_controls_lift_nothing_in_the_steps_that_the_expert_needs(
    sim: Simulator, lifted: EvaluatedEpisode, kind: str
) -> None:
    steps = lifted.result.steps
    episode = run_episode(sim, control(kind), "Pick up the cube", 2_000_000, steps)
    result = episode.result
    assert lifted.result.success
    assert not result.success
    assert (result.invalid_reason is not None) == (kind == "nan")
    assert result.steps == (0 if kind == "nan" else steps)
    assert result.reported_success == (kind != "nan")  # the report's rule, which only looks after a step
    assert len(episode.recording.states) == result.steps + 1
    assert result.failure_kind == ("invalid" if kind == "nan" else "never_reached")
    assert "| 1/1 = 100% [2.5%, 100%] |" in failure_table([result])


def test_a_weak_squeeze_is_no_loss_and_a_real_one_is(sim: Simulator, lifted: EvaluatedEpisode) -> None:
    limits = Thresholds()
    held = dataclasses.replace(
        sim.evidence(),
        opening_m=0.042,
        cube_width_m=0.042,
        cube_extent_m=0.042,
        between_pads=True,
        left_touch=True,
        right_touch=True,
        left_squeeze_n=19.0,
        right_squeeze_n=19.0,
        height_m=0.05,
    )
    assert held.is_grasped(limits)
    weak = dataclasses.replace(held, left_squeeze_n=1.0)
    one_finger = dataclasses.replace(weak, left_touch=False)
    gone = dataclasses.replace(one_finger, right_touch=False)
    down = dataclasses.replace(weak, height_m=0.0)
    low = dataclasses.replace(held, height_m=0.0)
    for story, expected in (
        ([held, weak, held], (0, 0)),
        ([held, one_finger, held], (0, 0)),
        ([held, gone, held], (1, 1)),
        ([held, gone, gone, held, gone], (2, 1)),
        ([held, down, low], (1, 1)),  # put back on the table by weak fingers, and taken again
        ([held, low, held], (0, 0)),  # lowered on purpose
        ([low, dataclasses.replace(gone, height_m=0.0), low], (0, 1)),  # lost before it was raised
        ([weak, gone, weak], (0, 0)),
    ):
        assert count_losses(story, limits) == expected, story


def test_training_says_why_its_episodes_are_invalid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vla.training.rollout_validation, "PolicyActor", lambda *_: control("nan"))
    validation = RolloutValidation(EnvConfig(), 2, 5, tmp_path / "rollout.mp4")
    no_network = cast(PolicyNetwork, None)
    rates = validation.run(no_network, InstructionEmbeddings({}, {}, "none"), torch.device("cpu"))
    validation.close()
    assert (rates["rollout/success"], rates["rollout/invalid"]) == (0, 1)
    assert re.search(r"2 of these 2 are INVALID, the first because .*finite", capsys.readouterr().out)


def test_the_second_judge_reads_the_file_and_sees_a_forged_success(
    sim: Simulator, lifted: EvaluatedEpisode, tmp_path: Path
) -> None:
    still = run_episode(sim, control("zero"), "Pick up the cube", 2_000_001, 10)
    broken = run_episode(sim, control("nan"), "Pick up the cube", 2_000_001, 10)
    path = tmp_path / "episodes.hdf5"
    write_episodes(path, EnvConfig(), [lifted, still, broken])
    rejudged = rejudge_file(path)
    assert [episode.second.follows for episode in rejudged] == [True, True, True]
    assert [episode.second.doubt for episode in rejudged] == [None, None, "an action is not finite"]
    assert [(episode.verdict, episode.second.success) for episode in rejudged] == [
        (True, True),
        (False, False),
        (False, False),
    ]
    with h5py.File(path, "r+") as file:
        file["episode_2"].attrs["success"] = True
    assert [episode.second.success for episode in rejudge_file(path)] == [True, False, False]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a whole HDF5 file"):
        rejudge_file(path)


@pytest.mark.parametrize("forgery", ["played back", "another seed", "a nudge", "a string", "an action", "no action"])
def test_states_that_do_not_follow_from_the_actions_are_found(
    sim: Simulator, lifted: EvaluatedEpisode, tmp_path: Path, forgery: str
) -> None:
    result, recording = lifted.result, lifted.recording
    states, actions = recording.states.copy(), recording.actions.copy()
    if forgery == "played back":  # the states of a lift, as another policy's
        actions[:, :6] = 0.0
    elif forgery == "another seed":
        result = dataclasses.replace(result, seed=2_000_001)
    elif forgery == "a nudge":
        states[20:, sim.cube_addresses()[0] + 1] += 0.001  # the time comes first
    elif forgery == "a string":
        states[15:-1] = _with_a_string(sim, states[15:-1])
    elif forgery == "an action":
        actions[12, 2] += 0.01
    else:
        actions = actions[:-1]
    path = tmp_path / "episodes.hdf5"
    forged = dataclasses.replace(recording, states=states, actions=actions)
    write_episodes(path, EnvConfig(), [EvaluatedEpisode(result, forged)])
    (rejudged,) = rejudge_file(path)
    assert rejudged.verdict
    assert not rejudged.second.success
    assert rejudged.second.doubt is not None
    assert rejudged.second.follows == (forgery == "no action")


def test_the_second_judge_needs_no_word_from_the_first(sim: Simulator, lifted: EvaluatedEpisode) -> None:
    states, actions = lifted.recording.states, lifted.recording.actions
    assert rejudge(sim.model, "cube", states, actions).success
    moving = states.copy()
    moving[0, 1 + sim.model.nq + sim.cube_velocity_addresses()[0]] = 0.05
    assert rejudge(sim.model, "cube", moving, actions).broken_rule == "the cube moved when the episode began"
    refused = np.concatenate([actions, np.full((1, 7), np.nan)])
    assert rejudge(sim.model, "cube", states, refused).broken_rule == "an action is not finite"
    diverged = np.concatenate([actions, actions[-1:]])
    assert "actions led to" in str(rejudge(sim.model, "cube", states, diverged).broken_rule)


def _with_a_string(sim: Simulator, states: np.ndarray) -> np.ndarray:
    """The same states with an outside force on the cube recorded in them."""
    import mujoco  # here: imported before a simulator has chosen the GL backend, it could not draw

    data, kind = mujoco.MjData(sim.model), mujoco.mjtState.mjSTATE_INTEGRATION
    pulled = states.copy()
    for state in pulled:
        mujoco.mj_setState(sim.model, data, state, kind)
        data.xfrc_applied[sim.model.body("cube_main").id, 2] = 0.1
        mujoco.mj_getState(sim.model, data, state, kind)
    return pulled


def test_the_recorded_start_is_where_the_episode_began(sim: Simulator, lifted: EvaluatedEpisode) -> None:
    sim.placement = Placement(0.02, 0.01)
    try:
        episode = run_episode(sim, control("zero"), "Pick up the cube", 2_000_000, 3)
    finally:
        sim.placement = None
    assert (episode.result.cube_x_m, episode.result.cube_y_m) == pytest.approx((0.02, 0.01))
    first, states = sim.cube_addresses()[0] + 1, episode.recording.states
    assert states[0, first : first + 2] == pytest.approx([0.02, 0.01])
    assert not np.array_equal(states[0], lifted.recording.states[0])


def test_mcnemar_on_known_counts(lifted: EvaluatedEpisode) -> None:
    """8 against 1 discordant pairs: p = 2 (1 + 9) / 2^9."""
    won = lifted.result
    lost = dataclasses.replace(won, success=False)
    first = [won] * 8 + [lost] + [won] * 20 + [lost] * 3
    second = [lost] * 8 + [won] + [won] * 20 + [lost] * 3
    content, text = comparison(["a", "b"], first, second)
    assert content["mcnemar_exact_p"] == pytest.approx(20 / 512)
    assert (content["lifted_by_first_only"], content["lifted_by_second_only"]) == (8, 1)
    assert (content["lifted_by_both"], content["lifted_by_neither"]) == (20, 3)
    assert len(content["differing"]) == 9
    assert "p = 0.0391, a difference" in text


def test_policies_of_different_scenes_are_not_compared() -> None:
    first = dataclasses.replace(control_subject("zero", ("go",)), checkpoint=Path("a.pth"))
    second = dataclasses.replace(first, checkpoint=Path("b.pth"))
    check_same_episodes(first, second)
    with pytest.raises(UserError, match=r"a\.pth and b\.pth .*camera agentview, frontview"):
        check_same_episodes(first, dataclasses.replace(second, env=EnvConfig(camera="frontview")))


def test_results_hold_what_a_machine_may_ask(lifted: EvaluatedEpisode) -> None:
    won = lifted.result
    lost = dataclasses.replace(won, success=False, failure_kind="missed_sideways", failed="lifted", push_m=None)
    slid = dataclasses.replace(won, push_m=0.009)
    content = results_json({"policy": "p"}, {"seed": 5}, EnvConfig(), [won, lost, slid], [Path("a.mp4"), None, None])
    assert next(iter(content)) == "results_version"
    assert content["reported_success_interval_95"] == pytest.approx((0.2924, 1.0), abs=1e-3)
    assert content["table_4"]["rates"]["success"]["count"] == 2
    assert content["failure_kinds"]["missed_sideways"]["failed"] == {"lifted": 1}
    assert content["push_test"] == {"pushed": 2, "withstood": 1, "largest_m": 0.009, "limit_m": 0.008}
    assert {"torch", "torchvision", "python", "mujoco"} <= set(content["versions"])
    assert content["thresholds"]["hold_steps"] == 20
    assert json.loads(content["env_args"])["env_name"] == "Lift"
    assert push_summary([lost]) is None
    assert "1 of 2 held cubes" in push_line([won, slid])
    assert "9.0 mm" in push_line([won, slid])
    assert "no cube was held" in push_line([lost])


def test_the_page_shows_failures_first_with_tables_and_plots(lifted: EvaluatedEpisode, tmp_path: Path) -> None:
    failure = dataclasses.replace(
        lifted.result,
        seed=2_000_009,
        success=False,
        failure_kind="not_held",
        failed="not_slipping",
        phase_times_s={"approached": 1.0},
    )
    lost = dataclasses.replace(lifted, result=failure)
    path = tmp_path / "report.html"
    write_report(path, "title", {"a": "b"}, [lifted, lifted, lost], [None] * 3, "Push test: fine")
    page = path.read_text()
    numbers = [int(number) for number in re.findall(r"<h3>Episode (\d+), seed", page)]
    assert numbers == [3, 1, 2]
    for name in ("Milestones", "Failures", "Table 4 of the report", "Where the cube lay"):
        assert f"<h2>{name}</h2>" in page
    assert "<td>held</td><td>2/3 = 66.7% [9.4%, 99.2%]</td>" in page
    assert "<td>not held</td><td>1/3 = 33.3% [0.8%, 90.6%]</td><td>not slipping 1</td>" in page
    assert page.count("<b>not held</b>") == 1
    assert "Push test: fine" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 1
    assert all(np.ptp(imageio.imread(base64.b64decode(picture))) > 100 for picture in pictures)
    write_report(path, "title", {"a": "b"}, [lifted], [None])
    assert "<h2>Failures</h2>" not in path.read_text()


@pytest.mark.slow
def test_the_shipped_policy_lifts_and_its_page_opens_from_disk(tmp_path: Path) -> None:
    shipped = ROOT / "checkpoints/lift.pth"
    done = run_script(
        ROOT / "5_evaluate.py", "--checkpoint", shipped, "--num-episodes", "2", "--push-test", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "videos/results.json").read_text())
    assert [episode["success"] for episode in results["episodes"]] == [True, True]
    page = (tmp_path / "videos/report.html").read_text()
    assert page.count("<article") == 2
    assert results["push_test"]["pushed"] == 2
    assert "2 of 2 held cubes" in page
    assert "2 of 2 held cubes" in (tmp_path / "videos/results.md").read_text()
    assert 'href="eval_trial_1.mp4"' in page
    assert not re.search(r"(src|href)=\"(https?:|//|/)", page)
    done = run_script(ROOT / "5_evaluate.py", "--rejudge", "videos/episodes.hdf5", cwd=tmp_path)
    assert "agree on 2 of 2" in done.stdout
    assert done.returncode == 0
    with h5py.File(tmp_path / "videos/episodes.hdf5", "r+") as file:
        file["episode_2"].attrs["success"] = False
    done = run_script(ROOT / "5_evaluate.py", "--rejudge", "videos/episodes.hdf5", cwd=tmp_path)
    assert done.returncode == 1
    assert "episode_2, seed 2000001: the second judge says a success" in done.stdout
