"""Faults in an evaluation: a policy's fault costs its episode, the machine's stops the run, and nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from vla.errors import MachineError, UserError
from vla.evaluation.asked_episodes import lift_episodes
from vla.evaluation.episode import EvaluatedEpisode, died_episode, run_episode
from vla.evaluation.evaluate import Evaluation, publish
from vla.evaluation.html_report import write_report
from vla.evaluation.identity import difference
from vla.evaluation.machine import machine_facts
from vla.evaluation.partial import PartialEpisodes
from vla.evaluation.plan import EvaluationPlan, checkpoint_subject, control_subject
from vla.evaluation.recordings import write_episodes
from vla.evaluation.rejudge import print_second_opinions, rejudge_file
from vla.evaluation.results_json import results_json
from vla.evaluation.runner import DIED, resumable
from vla.evaluation.worker import task_actor
from vla.experts.controls import control
from vla.policies.execution import ControlConfig
from vla.policies.faults import is_machine_fault
from vla.sim.config import EnvConfig
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Decision

GO = "Pick up the cube"


class Failing:
    """Does nothing for two steps, and raises `error` at the third."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def reset(self, instruction: str, seed: int) -> None:
        self._steps = 0

    def select_action(self, obs: Observation) -> Decision:
        self._steps += 1
        if self._steps == 3:
            raise self._error
        return Decision(np.zeros(7, np.float32), np.zeros(7, np.float32))


def test_a_policy_that_raises_has_failed(sim: Simulator) -> None:
    episode = run_episode(sim, Failing(ZeroDivisionError("division by zero")), GO, 2_000_003, 25)
    assert not episode.result.success
    assert episode.result.invalid_reason == "the episode crashed: ZeroDivisionError: division by zero"
    assert (episode.result.failed, episode.result.failed_step, episode.result.steps) == ("valid", 2, 2)
    assert len(episode.recording.states) == 3


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ConnectionResetError("Connection reset by peer"),
        OSError(28, "No space left on device"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_of_the_machine_is_not_counted_against_the_policy(sim: Simulator, error: Exception) -> None:
    with pytest.raises(MachineError, match="the episode of seed 2000003 was cut off") as stopped:
        run_episode(sim, Failing(error), GO, 2_000_003, 25)
    assert type(error).__name__ in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not is_machine_fault(ValueError("shapes (3,) and (4,) do not match"))


@pytest.mark.parametrize("good_images", [0, 3])
def test_a_renderer_that_fails_stops_the_run(sim: Simulator, monkeypatch: pytest.MonkeyPatch, good_images: int) -> None:
    import mujoco

    render, images = sim.render, 0

    def failing_render() -> np.ndarray:
        nonlocal images
        images += 1
        if images > good_images:
            raise mujoco.FatalError("gladLoadGL error")
        return render()

    monkeypatch.setattr(sim, "render", failing_render)
    with pytest.raises(MachineError, match="FatalError: gladLoadGL error"):
        run_episode(sim, control("zero"), GO, 2_000_003, 25)


def test_a_reset_that_fails_stops_the_run(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing_reset(seed: int) -> Observation:
        raise ValueError("the model is broken")

    monkeypatch.setattr(sim, "reset", failing_reset)
    with pytest.raises(MachineError, match="cannot begin the episode of seed 2000003: ValueError: the model is broken"):
        run_episode(sim, control("zero"), GO, 2_000_003, 25)


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, no file of this process and its children can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_video_that_cannot_be_written_costs_that_video(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "eval_trial_1.mp4"
    whole = run_episode(sim, control("zero"), GO, 2_000_003, 4, video)
    assert whole.has_video
    assert len(imageio.mimread(video, memtest=False)) == 4
    with _files_of_at_most(2000):
        without = run_episode(sim, control("zero"), GO, 2_000_003, 4, video)
    assert "WARNING: the video eval_trial_1.mp4 could not be written" in capsys.readouterr().out
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    no_ffmpeg = run_episode(sim, control("zero"), GO, 2_000_003, 4, video)
    assert "WARNING: the video eval_trial_1.mp4 could not be written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []  # neither a half video nor that of another episode
    for episode in (without, no_ffmpeg):
        assert not episode.has_video
        assert episode.result.max_height_m == whole.result.max_height_m
        np.testing.assert_array_equal(episode.recording.states, whole.recording.states)


def test_a_dead_worker_leaves_results_that_can_be_read(
    sim: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes = [run_episode(sim, control("zero"), GO, 2_000_000, 3), died_episode(2_000_001, GO, DIED)]
    results = [episode.result for episode in episodes]
    content = json.loads(json.dumps(results_json({}, {}, EnvConfig(), results, [None, None]), allow_nan=False))
    assert content["table_4"]["rates"]["invalid"]["count"] == 1
    assert content["episodes"][1]["cube_x_m"] is None
    write_report(tmp_path / "report.html", "title", {}, episodes, [None, None])
    page = (tmp_path / "report.html").read_text()
    assert "the cube lay at an unknown place" in page
    assert page.count('alt="frames of episode') == 1
    recordings = tmp_path / "episodes.hdf5"
    write_episodes(recordings, EnvConfig(), episodes)
    began, died = rejudge_file(recordings)
    assert (began.second.doubt, died.verdict, died.second.success) == (None, False, False)
    assert "its worker process died" in str(died.second.doubt)
    assert print_second_opinions(recordings)
    assert "the judges agree on 2 of 2 episodes" in capsys.readouterr().out


def _same(a: EvaluatedEpisode, b: EvaluatedEpisode) -> bool:
    arrays = ("states", "actions", "strip")
    return (a.result, a.has_video) == (b.result, b.has_video) and all(
        np.array_equal(getattr(a.recording, name), getattr(b.recording, name)) for name in arrays
    )


@pytest.mark.slow
def test_finished_episodes_are_read_back_to_the_bit(sim: Simulator, tmp_path: Path) -> None:
    lifted = run_episode(sim, control("expert"), GO, 2_000_000, 60, tmp_path / "v.mp4", push=True)
    died = died_episode(2_000_001, GO, DIED)
    assert lifted.result.success
    assert lifted.has_video
    partial = PartialEpisodes(tmp_path / "out", {"seeds": [1, 2]})
    assert partial.load() == {}
    for episode in (lifted, died):
        partial.save(episode)
    found = PartialEpisodes(tmp_path / "out", {"seeds": [1, 2]}).load()
    assert list(found) == [2_000_000, 2_000_001]
    assert _same(found[2_000_000], lifted)
    assert _same(found[2_000_001], died)


def test_a_damaged_episode_is_run_again_and_foreign_files_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    partial = PartialEpisodes(tmp_path, {"seeds": [1, 2]})
    for seed in (1, 2):
        partial.save(died_episode(seed, GO, DIED))
    damaged = partial.folder / "episode_1.npz"
    whole = damaged.read_bytes()
    flipped = whole[:60] + bytes(byte ^ 255 for byte in whole[60:100]) + whole[100:]
    for content in (whole[:200], b"", flipped):  # BadZipFile, EOFError, zlib.error
        damaged.write_bytes(content)
        assert list(partial.load()) == [2]
        assert "episode_1.npz is damaged" in capsys.readouterr().out
    (partial.folder / "notes.txt").write_text("mine")
    partial.remove()
    assert [path.name for path in partial.folder.iterdir()] == ["notes.txt"]


def test_another_question_keeps_its_episodes_and_is_named(tmp_path: Path) -> None:
    first = PartialEpisodes(tmp_path, {"seeds": [1, 2], "max_steps": 200})
    first.save(died_episode(1, GO, DIED))
    second = PartialEpisodes(tmp_path, {"seeds": [1, 2], "max_steps": 100})
    assert second.load() == {}
    (line,) = second.describe_others()
    assert f"{first.folder} is kept: 1 finished episodes of another evaluation" in line
    assert "max_steps is 200 there, 100 here" in line
    assert first.describe_others() == []


EPISODES = lift_episodes((GO,), 3, 2_000_000)
PLAN = EvaluationPlan(EPISODES, "test", 60, ControlConfig(), False, False, True, 2, "auto", {})


def test_a_question_is_the_same_for_any_number_of_workers_and_another_for_any_other_option() -> None:
    subject, facts = control_subject("zero", (GO,)), {"gl_backend": "egl"}
    question = PLAN.question(subject, facts)
    assert dataclasses.replace(PLAN, workers=8).question(subject, facts) == question
    assert set(question["machine"]) == {"cpu", "instruction_set", "system"}
    others = [
        dataclasses.replace(PLAN, episodes=lift_episodes((GO,), 4, 2_000_000)),
        dataclasses.replace(PLAN, episodes=lift_episodes((GO,), 3, 2_000_001)),
        dataclasses.replace(PLAN, max_steps=61),
        dataclasses.replace(PLAN, control=ControlConfig(2)),
        dataclasses.replace(PLAN, blind=True),
        dataclasses.replace(PLAN, push_test=True),
        dataclasses.replace(PLAN, videos=False),
    ]
    for plan in others:
        assert difference(question, plan.question(subject, facts)) is not None, plan
    assert PLAN.question(control_subject("random", (GO,)), facts) != question
    assert PLAN.question(subject, {"gl_backend": "osmesa"}) != question


def test_the_machine_is_named() -> None:
    facts = machine_facts()
    assert all(facts.values())
    assert facts["instruction_set"].startswith(torch.backends.cpu.get_cpu_capability())


def test_a_fault_of_the_machine_says_that_the_same_command_continues() -> None:
    for fault in (MachineError("the GPU is full"), OSError(28, "No space left on device")):
        with pytest.raises(MachineError, match="run the same command again to continue") as stopped, resumable():
            raise fault
        assert str(fault) in str(stopped.value)
    with pytest.raises(UserError, match=r"^mine$"), resumable():
        raise UserError("mine")
    with pytest.raises(IsADirectoryError), resumable():  # would fail again
        Path("/").write_text("")


def _published(folder: Path, names: dict[int, str]) -> Evaluation:
    """An evaluation of two episodes that has not been published; `names`: content of the videos by number."""
    subject = control_subject("zero", (GO,))
    plan = dataclasses.replace(PLAN, episodes=EPISODES[:2])
    partial = PartialEpisodes(folder, plan.question(subject, {}))
    episodes = [
        dataclasses.replace(died_episode(seed, GO, DIED), has_video=number in names)
        for number, seed in enumerate((2_000_000, 2_000_001), start=1)
    ]
    for episode in episodes:
        partial.save(episode)
    for number, content in names.items():
        (partial.folder / f"eval_trial_{number}.mp4").write_text(content)
    return Evaluation(plan, subject, folder, subject.facts | {"machine": machine_facts()}, episodes, partial)


def test_results_are_published_with_their_own_videos_however_often(tmp_path: Path) -> None:
    for name in ("eval_trial_1.mp4", "eval_trial_2.mp4", "eval_trial_1_annotated.mp4"):
        (tmp_path / name).write_text("older")
    evaluation = _published(tmp_path, {1: "new"})
    for _ in range(2):  # the first time, the run is killed before it removes the finished episodes
        publish(evaluation)
        assert (tmp_path / "eval_trial_1.mp4").read_text() == "new"
        assert not (tmp_path / "eval_trial_2.mp4").exists()
        (tmp_path / "eval_trial_1.mp4").write_text("of another run")
    assert (tmp_path / "eval_trial_1_annotated.mp4").read_text() == "older"
    evaluation.partial.remove()
    assert not evaluation.partial.folder.exists()


def test_a_checkpoint_rewritten_during_its_evaluation_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    shutil.copy(ROOT / "checkpoints/lift.pth", path)
    subject = checkpoint_subject(path, (GO,), ControlConfig(), "none")
    (task, *_) = PLAN.tasks(subject, None)
    task_actor(task)
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="rewritten while it was being evaluated; copy it and evaluate the copy"):
        task_actor(task)
    task_actor(dataclasses.replace(task, checkpoint_version=None))  # the web page: always the newest file
