"""Benchmarks of several training seeds: what they repeat, what they refuse, and what their tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vla.errors import UserError


def training(lifted: int, episodes: int = 50) -> dict[str, Any]:
    return {
        "success": "1" * lifted + "0" * (episodes - lifted),
        "grasped": episodes,
        "steps": 900,
        "first_motion": 0.02,
        "first_gripper_accuracy": 0.98,
        "own_validation": False,
    }


def arms(benchmarks: Any, **lifted: tuple[int, ...]) -> dict[str, Any]:
    """The result file of what_matters.py with trainings of these lifts, by arm."""
    known = benchmarks("arms").ARMS
    content = benchmarks("what_matters").BenchmarkOptions().begun()
    for name, each in lifted.items():
        name = name.replace("_", "-")
        trainings = {str(seed): training(count) for seed, count in enumerate(each)}
        content["arms"][name] = {"what": known[name].what, "trainings": trainings}
    return content


def test_only_arms_of_three_trainings_are_shown(benchmarks: Any) -> None:
    table = benchmarks("arms_table")
    content = arms(benchmarks, equal_chunk=(20, 24), no_noise=(25, 24, 27), reference=(45, 44, 43))
    assert table.shown_arms(content) == ["reference", "no-noise"]
    assert "all actions of a chunk" not in table.arms_table(content) + table.shown(content)
    assert table.shown_arms(arms(benchmarks, no_noise=(25, 24, 27), reference=(45, 44))) == []


def test_the_list_claims_what_survives_the_correction(benchmarks: Any) -> None:
    table = benchmarks("arms_table")
    content = arms(
        benchmarks,
        reference=(45, 43, 44),
        no_noise=(24, 25, 23),
        equal_chunk=(48, 20, 35),
        no_auxiliary=(44, 45, 45),
        proprioception=(50, 50, 50),
    )
    compared = table.comparisons(content)
    assert [name for name, (_, corrected) in compared.items() if corrected < 0.05] == ["no-noise", "proprioception"]
    assert all(difference.p <= corrected for difference, corrected in compared.values())
    worse, better, unknown = table.shown(content).splitlines()
    assert worse.startswith("- **worse**: neither noise nor detours and slips (-40 points [")
    assert better.startswith("- **better**: the arm's own state beside the picture (+12 points [")
    assert unknown.startswith("- **not distinguishable from the reference**: no auxiliary loss (+1 points [")
    reference, no_noise = table.arms_table(content).splitlines()[2:4]
    assert "132/150 = 88% [" in reference
    assert "24, 25, 23" in no_noise


def _fusion(benchmarks: Any) -> dict[str, Any]:
    """A result of two arms with two trainings each, of 10 starts with two instructions."""

    def training(right: int, all_right: int, wrong: int) -> dict[str, Any]:
        counted = {"right": right, "named_first": 20 - wrong, "wrong_object": wrong}
        measures: dict[str, Any] = {name: {"episodes": {"count": count, "of": 20}} for name, count in counted.items()}
        measures["right"]["all_of_seed"] = {"count": all_right, "of": 10}
        return {"measures": measures, "first_motion": 0.02}

    fusion = benchmarks("fusion")
    content = fusion.FusionOptions().begun()
    for name, outcomes in (("report", ((7, 0, 6), (9, 1, 5))), ("film", ((18, 8, 0), (16, 7, 0)))):
        trainings = {str(seed): training(*each) for seed, each in enumerate(outcomes)}
        content["arms"][name] = {"what": fusion.ARMS[name].what, "trainings": trainings}
    return content


def test_each_network_of_the_fusion_table_has_a_row(benchmarks: Any) -> None:
    report, film = benchmarks("fusion").fusion_table(_fusion(benchmarks)).splitlines()[2:]
    assert [cell.strip() for cell in report.split("|")[2:-1]] == ["29/40", "16/40", "11/40", "1/20", "0, 1", "0.020"]
    assert [cell.strip() for cell in film.split("|")[2:-1]] == ["40/40", "34/40", "0/40", "15/20", "8, 7", "0.020"]


def test_each_seed_and_the_shipped_policy_have_a_row(benchmarks: Any) -> None:
    seeds = benchmarks("training_seeds")
    content = seeds.TrainingSeedsOptions().begun()
    content["trainings"] = {"0": {"success": "1" * 100}, "1": {"success": "1" * 100}, "2": {"success": "1" * 100}}
    shipped = {"episodes": [{"seed": 2001000 + number, "success": True} for number in range(300)]}
    rows = seeds.training_seeds_table(content, shipped).splitlines()[2:]
    assert len(rows) == 5
    assert "2004000-2004099" in rows[0]
    assert "100/100 = 100% [96.3%, 100%]" in rows[0]
    assert "300/300 = 100% [94.2%, 100%]" in rows[3]
    assert "300/300 = 100% [98.7%, 100%]" in rows[4]


def test_a_finished_training_is_not_repeated(benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings, commands = benchmarks("trainings"), []
    monkeypatch.setattr(trainings, "run_stage", lambda *arguments: commands.append(arguments))
    for seed, count in ((0, 1), (0, 1), (1, 2)):
        trainings.train(tmp_path, {"seed": seed}, lambda seed=seed: ("--seed", seed))
        assert len(commands) == count
    assert commands[0][:4] == ("4_train.py", "--recipe", "cpu", "--resume")
    assert commands[1][-2:] == ("--seed", 1)


def test_trainings_of_other_settings_are_not_put_together(benchmarks: Any, tmp_path: Path) -> None:
    trainings = benchmarks("trainings")
    path, begun = tmp_path / "what_matters.json", arms(benchmarks)
    path.write_text(json.dumps(arms(benchmarks, reference=(45,))))
    assert list(trainings.check_comparable(path, begun)["arms"]) == ["reference"]
    path.write_text(json.dumps({"reference": {"settings": begun["settings"]}}))  # the layout of an older version
    with pytest.raises(UserError, match="other what_matters_version"):
        trainings.check_comparable(path, begun)
    begun["settings"]["thresholds"]["hold_steps"] += 1
    path.write_text(json.dumps(arms(benchmarks, reference=(45,))))
    with pytest.raises(UserError, match="other thresholds, and"):
        trainings.check_comparable(path, begun)


def test_stale_trainings_are_not_shown(benchmarks: Any) -> None:
    stale = benchmarks("results").stale
    assert stale("what_matters", arms(benchmarks, reference=(45, 44, 43))) is None
    assert "older version" in stale("what_matters", {"reference": {}})
    old = arms(benchmarks)
    old["settings"]["recipe"]["epochs"] += 1
    assert "recipe" in stale("what_matters", old)
    other = arms(benchmarks, reference=(45, 44, 43))
    other["arms"]["reference"]["what"] = "another reference"
    assert "arms ['reference']" in stale("what_matters", other)
    fusion = _fusion(benchmarks)
    assert stale("fusion", fusion) is None
    fusion["settings"]["language"]["wordings"] += 1
    assert "recipe" in stale("fusion", fusion)
    fusion = _fusion(benchmarks)
    fusion["arms"]["film"]["what"] = "another network"
    assert "arms ['film']" in stale("fusion", fusion)
    seeds = benchmarks("training_seeds").TrainingSeedsOptions().begun()
    seeds["trainings"] = {"0": {"data_sha256": "a"}, "1": {"data_sha256": "b"}}
    assert "same demonstrations" in stale("training_seeds", seeds)


def test_a_speedrun_counts_only_if_every_training_seed_lifted_enough(benchmarks: Any) -> None:
    speedrun = benchmarks("speedrun")

    def run(seed: int, lifted: int, training_s: float) -> dict[str, Any]:
        seconds = {"collection": 60.0, "training": training_s, "evaluation": 120.0}
        return {"seed": seed, "seconds": seconds, "success": "1" * lifted + "0" * (100 - lifted)}

    def record(*lifted: int) -> dict[str, Any]:
        runs = [run(seed, count, 240.0 + 60 * seed) for seed, count in enumerate(lifted)]
        return {"what": "all of it", "date": "2026-11-28", "machine": {"cpu": "a CPU"}, "runs": runs}

    *_, counts, fails = speedrun.speedrun_table([record(95, 100, 98), record(95, 94, 98)]).splitlines()
    for words in ("| 6.0 min ", "| 5.0, 6.0, 7.0 ", "| 60 s + 300 s + 120 s "):
        assert words in counts
    assert "does not count" not in counts
    assert "| 6.0 min (does not count) " in fails
    assert "94/100 = 94%" in fails
    with pytest.raises(UserError, match="needs three training seeds"):
        speedrun.SpeedrunOptions(seeds=(0, 1), record="too few")


def test_peers_stand_beside_the_shipped_policy_on_the_same_seeds(benchmarks: Any) -> None:
    peers = benchmarks("peers")
    ours = peers.shipped_episodes()
    seeds = [episode["seed"] for episode in ours["episodes"]][:20]
    peer = {"project": "Other 1.0", "algorithm": "BC", "demos": 135, "train_minutes": 20.0, "cpu_threads": 2}
    peer |= {"steps": 700, "batch": 8, "grasped": 5, "lifted": 2, "episodes": 20, "seeds": seeds}
    *_, other, mine = peers.peers_table([peer], ours).splitlines()
    assert "20 min on 2 CPU cores (700 steps of 8 frames)" in other
    assert "2/20 = 10%" in other
    assert "/20 = " in mine
    with pytest.raises(ValueError, match="values to unpack"):  # another peer's seeds are not comparable
        peers.peers_table([peer, {**peer, "seeds": seeds[1:]}], ours)
