"""The sequential comparison: its error rate, its mathematics, its independence of the workers, and a real run."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, run_script, wait_for
from vla.errors import UserError
from vla.evaluation.sequential import (
    ALPHA,
    FEWEST_PAIRS,
    THRESHOLD,
    anytime_interval,
    decide,
    ended_pairs,
    log_e_value,
)
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig

SHIPPED = ROOT / "checkpoints/lift.pth"
A_ONLY, B_ONLY, BOTH, NEITHER = (True, False), (False, True), (True, True), (False, False)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_equally_good_policies_are_told_apart_in_at_most_5_percent_of_10000_runs(rate: float) -> None:
    rng = np.random.default_rng(0)
    lifted = rng.random((2, 10_000, 400)) < rate
    only_first = np.cumsum(lifted[0] & ~lifted[1], axis=1)
    discordant = np.cumsum(lifted[0] != lifted[1], axis=1)
    decided = (log_e_value(only_first, discordant) >= math.log(THRESHOLD)).any(axis=1)
    assert 0 < decided.mean() <= ALPHA


def test_the_e_value_is_that_of_its_formula() -> None:
    """2^n / ((n + 1) C(n, k)) in exact arithmetic; a concordant pair changes nothing."""
    for n in range(12):
        for k in range(n + 1):
            exact = Fraction(2**n, (n + 1) * math.comb(n, k))
            assert math.exp(log_e_value(k, n)) == pytest.approx(float(exact), rel=1e-9)
    found = decide([BOTH, A_ONLY, NEITHER, A_ONLY, B_ONLY, BOTH])
    assert (found.better, found.pairs, found.only_first, found.only_second) == (None, 6, 2, 1)
    assert found.e_value == pytest.approx(2**3 / (4 * 3))
    assert found.p_value == pytest.approx(1 / (2**2 / 3))  # of the largest e-value, after two pairs


def test_the_e_value_expects_1_after_every_step_for_equally_good_policies() -> None:
    """The martingale's property, exact: the mean over the next pair is the value before it."""
    for n in range(60):
        for k in range(n + 1):
            now = math.exp(log_e_value(k, n))
            after = [math.exp(log_e_value(k + favours, n + 1)) for favours in (0, 1)]
            assert np.mean(after) == pytest.approx(now, rel=1e-9)
    assert math.exp(log_e_value(0, 0)) == pytest.approx(1)


def test_the_first_pair_that_reaches_20_decides_and_later_ones_are_not_looked_at() -> None:
    def pairs() -> Any:
        yield from [BOTH] * 3 + [B_ONLY] * FEWEST_PAIRS
        raise AssertionError("looked beyond the deciding pair")

    found = decide(pairs())
    assert (found.better, found.pairs, found.only_second) == ("second", 3 + FEWEST_PAIRS, FEWEST_PAIRS)
    assert found.e_value == pytest.approx(2**FEWEST_PAIRS / (FEWEST_PAIRS + 1))
    assert found.p_value == pytest.approx(1 / found.e_value)
    assert decide([A_ONLY] * (FEWEST_PAIRS - 1)).better is None
    assert decide([A_ONLY, B_ONLY] * 500).better is None


def test_both_policies_are_treated_alike() -> None:
    pairs = [(bool(a), bool(b)) for a, b in np.random.default_rng(1).random((200, 2)) < (0.9, 0.6)]
    found, mirrored = decide(pairs), decide([(b, a) for a, b in pairs])
    assert (found.better, mirrored.better) == ("first", "second")
    assert (found.pairs, found.only_first, found.e_value) == (mirrored.pairs, mirrored.only_second, mirrored.e_value)


def test_the_decision_does_not_depend_on_the_order_in_which_episodes_end() -> None:
    """Episodes end in the order of many random workers; whenever the test has decided, it is at the same pair."""
    rng = np.random.default_rng(2)
    seeds = range(2_000_000, 2_000_100)
    lifted = [dict(zip(seeds, (rng.random(100) < rate).tolist(), strict=True)) for rate in (0.95, 0.6)]
    whole = decide(ended_pairs(seeds, *lifted))
    assert whole.better == "first"
    assert FEWEST_PAIRS <= whole.pairs < 100
    for _ in range(20):
        # Ends are out of order by several episodes, as with workers whose episodes differ in length.
        ends = sorted((number + 12 * rng.random(), side, seed) for number, seed in enumerate(seeds) for side in (0, 1))
        ended: list[dict[int, bool]] = [{}, {}]
        for _, side, seed in ends:
            ended[side][seed] = lifted[side][seed]
            found = decide(ended_pairs(seeds, *ended))
            if found.better is not None:
                break
        assert found == whole
        assert decide(ended_pairs(seeds, *lifted)) == found  # and so it stays when more episodes end


def test_the_anytime_interval_covers_the_rate_at_every_trial_in_95_percent_of_runs() -> None:
    """A rate leaves the interval when the e-value against it reaches 20; the printed interval has the same bounds."""
    lifted = np.random.default_rng(3).random((4_000, 300)) < 0.9
    successes, trials = np.cumsum(lifted, axis=1), np.arange(1, 301)
    left = (log_e_value(successes, trials, 0.9) >= math.log(THRESHOLD)).any(axis=1)
    assert 0 < left.mean() <= ALPHA
    for successes_seen, trials_seen in ((0, 10), (7, 10), (10, 10), (299, 300)):
        low, high = anytime_interval(successes_seen, trials_seen)
        assert low <= successes_seen / trials_seen <= high
        for bound in (low, high):
            if 0 < bound < 1:
                assert log_e_value(successes_seen, trials_seen, bound) == pytest.approx(math.log(THRESHOLD), abs=1e-6)
    assert anytime_interval(0, 0) == (0, 1)
    assert anytime_interval(0, 10)[0] == 0
    assert anytime_interval(10, 10)[1] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "none were given; add --compare"),
        ({"compare": ("a", "b"), "every_instruction": True}, "--every-instruction"),
        ({"compare": ("a", "b"), "num_episodes": FEWEST_PAIRS - 1}, "fewer than 8 pairs"),
    ],
)
def test_what_cannot_be_decided_is_refused(given: dict[str, Any], words: str) -> None:
    options = importlib.import_module("5_evaluate").EvaluateOptions
    with pytest.raises(UserError, match=words):
        options(until_decided=True, **given)
    fewest = options(until_decided=True, compare=("a", "b"), num_episodes=FEWEST_PAIRS)
    assert len(fewest.episodes(EnvConfig())) == 8


@pytest.mark.slow
def test_a_killed_sequential_comparison_continues_and_decides_with_any_number_of_workers(tmp_path: Path) -> None:
    """The shipped policy against one whose eyes are closed by its weights, which lifts nothing."""
    other = tmp_path / "other.pth"
    content = load_checkpoint(SHIPPED)
    content["model"] = {name: 0 * w if name.startswith("vision.") else w for name, w in content["model"].items()}
    torch.save(content, other)
    compare = ("--compare", str(SHIPPED), str(other), "--until-decided", "--num-episodes", "14", "--no-videos")
    command = (str(ROOT / "5_evaluate.py"), *compare, "--max-steps", "65", "--output-dir", "both", "--workers")
    victim = subprocess.Popen([sys.executable, *command, "1"], cwd=tmp_path, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("both/*/partial-*/episode_*.npz"))) >= 3)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()

    done = run_script(*command, "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of 14 episodes are finished (both/a/partial-" in done.stdout
    both = json.loads((tmp_path / "both/compare.json").read_text())
    test, pairs = both["sequential"], both["sequential"]["pairs"]
    assert (test["decided_for"], test["budget"]) == ("A", 14)
    assert FEWEST_PAIRS <= pairs < 14
    assert test["e_value"] >= THRESHOLD
    assert test["anytime_p"] == pytest.approx(1 / test["e_value"])
    assert test["episodes_beyond"] <= 4
    assert not {"mcnemar_exact_p", "lifted_interval_95"} & set(both)
    assert both["seeds"] == [2_000_000, 2_000_000 + pairs - 1]
    for side, lifted in zip("ab", both["lifted"], strict=True):
        results = json.loads((tmp_path / "both" / side / "results.json").read_text())
        assert [each["seed"] for each in results["episodes"]] == list(range(2_000_000, 2_000_000 + pairs))
        assert sum(each["success"] for each in results["episodes"]) == lifted
        assert f"{pairs} of at most 14 episodes" in (tmp_path / "both" / side / "results.md").read_text()
    assert f"Decided after {pairs} of at most 14 pairs: A is better." in (tmp_path / "both/compare.md").read_text()
    assert not list((tmp_path / "both").glob("*/partial-*"))
