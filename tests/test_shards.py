"""Shards: every task is in one of them, they do not wait for each other, and joined they are what one run writes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import vla.sim.workers
from tests.attacks.__main__ import SuiteOptions, run_attacks
from tests.attacks.suite import HONEST, AttackTask
from vla.errors import MachineError, UserError
from vla.evaluation.language_rows import Row, RowsFile
from vla.files import run_lock
from vla.shards import Shard
from vla.sim.env import Simulator
from vla.sim.workers import Workers

TIMING = ("wall_s", "inference_ms", "timing")
collection: Any = importlib.import_module("1_collect_demos")
evaluation: Any = importlib.import_module("5_evaluate")


class Here(Workers):
    """Runs the tasks in this process."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        done: Callable[[int, Any], None] | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> list[Any]:
        assert done is not None
        results = []
        for number, task in enumerate(tasks):
            results.append(function(task))
            done(number, results[-1])
        return results


@pytest.fixture
def here(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and its simulator of the scene lift be the worker of all runs."""
    monkeypatch.setattr(vla.sim.workers, "_simulator", sim)
    for module in ("1_collect_demos", "vla.evaluation.runner", "tests.attacks.__main__"):
        monkeypatch.setattr(importlib.import_module(module), "simulator_workers", lambda *_, **__: Here())


def test_every_task_is_in_one_shard() -> None:
    shards = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    parts = [shard.part(range(8)) for shard in shards]
    assert parts == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert str(shards[2]) == "3 of 3"
    assert Shard.parse("16/16").part("few") == []


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "-1/4", "1/4/4", "a/b", "1 / 4", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    for options in (collection.CollectOptions, evaluation.EvaluateOptions, SuiteOptions):
        with pytest.raises(UserError, match=r"--shard .*from 1/16 to 16/16"):
            options(shard=text)


def test_what_a_shard_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="leave --overwrite out"):
        collection.CollectOptions(shard="1/2", overwrite=True)
    with pytest.raises(UserError, match="--perturb runs as a whole"):
        evaluation.EvaluateOptions(shard="1/2", perturb="all")
    with pytest.raises(UserError, match="--engine ray has several"):
        evaluation.EvaluateOptions(engine="ray", inference="shared")


def test_shards_run_beside_each_other_and_not_beside_the_run_that_joins_them(tmp_path: Path) -> None:
    first, second = Shard(1, 2), Shard(2, 2)
    refused = pytest.raises(UserError, match="another run is writing to")
    with run_lock(tmp_path, shard=first), run_lock(tmp_path, shard=second):
        with refused, run_lock(tmp_path, shard=first):
            pass
        with refused, run_lock(tmp_path):
            pass
    with run_lock(tmp_path), refused, run_lock(tmp_path, shard=first):
        pass
    with run_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_shards_of_a_collection_join_to_the_bytes_of_one_run(
    here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def collect(folder: str, shard: str | None = None) -> Path:
        output = tmp_path / folder / "demos.hdf5"
        collection.main(collection.CollectOptions(output=output, num_episodes=2, video_episodes=(), shard=shard))
        return output

    whole = collect("whole")
    for shard in ("2/2", "1/2"):
        output = collect("shards", shard)
        assert not output.exists()
        assert f"shard {shard[0]} of 2 is done; when all 2 are" in capsys.readouterr().out
    assert collect("shards").read_bytes() == whole.read_bytes()
    assert "continuing: 2 of 2 demonstrations" in capsys.readouterr().out
    assert sorted(path.name for path in whole.parent.iterdir()) == sorted(path.name for path in output.parent.iterdir())


@pytest.mark.slow
def test_shards_of_an_evaluation_join_to_the_results_of_one_run(here: None, tmp_path: Path) -> None:
    def evaluate(folder: str, shard: str | None = None) -> Path:
        options = evaluation.EvaluateOptions(
            policy="expert", num_episodes=2, max_steps=10, videos=False, output_dir=tmp_path / folder, shard=shard
        )
        evaluation.main(options)
        return tmp_path / folder

    whole = evaluate("whole")
    for shard in ("2/2", "1/2"):
        assert not (evaluate("shards", shard) / "results.json").exists()
    joined = evaluate("shards")
    assert (joined / "episodes.hdf5").read_bytes() == (whole / "episodes.hdf5").read_bytes()
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (joined, whole))
    assert [_untimed(each) for each in ours["episodes"]] == [_untimed(each) for each in theirs["episodes"]]
    assert ours["milestones"] == theirs["milestones"]
    assert {path.name for path in joined.iterdir()} == {path.name for path in whole.iterdir()}


def _untimed(episode: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in episode.items() if name not in TIMING}


def test_shards_of_the_language_suite_write_rows_of_their_own_and_read_all(tmp_path: Path) -> None:
    def row(seed: int) -> Row:
        return Row("two-cubes", seed, 0, "a", None, "", "red", 0, [], None, [], [], True, None, None, 9, None, True, "")

    question = {"policy": "a"}
    first, second = (RowsFile(tmp_path, question, Shard(number, 2)) for number in (1, 2))
    first.add(row(1))
    second.add(row(2))
    with first.path.open("a") as file:
        file.write('{"part": "two-')  # by a run that was killed
    whole = RowsFile(tmp_path, question)
    assert [each.seed for each in whole.load()] == [1, 2]
    whole.add(row(3))
    assert sorted(each.seed for each in first.load()) == [1, 2, 3]
    assert len(first.path.read_text().splitlines()) == 1
    whole.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_shards_of_the_attack_suite_are_joined_and_not_repeated(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "attacks.json"
    tasks = [AttackTask("rattling", 0), AttackTask(HONEST, 0)]
    parts = [run_attacks(SuiteOptions(output=output, shard=shard), tasks) for shard in ("1/2", "2/2")]
    assert [[result.name for result in part] for part in parts] == [["rattling"], [HONEST]]
    monkeypatch.setattr(Here, "run", lambda *_: pytest.fail("an episode was run again"))
    joined = run_attacks(SuiteOptions(output=output), tasks)
    assert [(result.name, result.accepted) for result in joined] == [("rattling", False), (HONEST, True)]
    (tmp_path / "attacks.shard-1-of-2.json").write_text('{"facts": {}, "results": []}')
    with pytest.raises(UserError, match="other versions or thresholds; move it away"):
        run_attacks(SuiteOptions(output=output), tasks)


def test_a_task_that_kills_its_worker_twice_ends_a_run_that_needs_all_results(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    assert Here().run_all(str.upper, ["a", "b"], seen.append) == ["A", "B"] == seen
    with pytest.raises(MachineError, match="died each time at the same task"):
        Here().run_all(_die, ["a"], seen.append)


def _die(_: str) -> Any:
    return None
