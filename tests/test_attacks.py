"""Every attack on the verdict, once, and honest lifts of other cubes; `make attacks` runs fifty of each attack."""

from __future__ import annotations

import pytest

from tests.attacks.attacks import ATTACKS
from tests.attacks.director import ALL_CONDITIONS
from tests.attacks.suite import AttackResult, run_attack, run_honest
from vla.judging.push_test import MAX_PUSH_M
from vla.sim.env import Simulator


@pytest.fixture(scope="module")
def blind_sim() -> Simulator:
    """A simulator that renders no images: neither attacks nor the expert need any."""
    return Simulator(render_images=False)


@pytest.fixture(scope="module")
def results(blind_sim: Simulator) -> dict[str, AttackResult]:
    return {name: run_attack(blind_sim, name, seed=1) for name in ATTACKS}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_is_accepted_by_either_judge(results: dict[str, AttackResult], name: str) -> None:
    assert not results[name].accepted, results[name].words
    assert not results[name].accepted_by_second_judge


@pytest.mark.slow
@pytest.mark.parametrize("condition", ALL_CONDITIONS)
def test_without_this_condition_an_attack_succeeds(results: dict[str, AttackResult], condition: str) -> None:
    fooled = {name for name, run in results.items() if condition in run.accepted_without}
    designed = {name for name, attack in ATTACKS.items() if attack.only == condition}
    assert fooled & designed, f"nothing shows that {condition} is needed; fooled: {fooled}"


@pytest.mark.slow
def test_the_reports_rule_and_robosuites_are_fooled(results: dict[str, AttackResult]) -> None:
    assert all(run.accepted_by_report for run in results.values())
    assert sum(run.accepted_by_robosuite for run in results.values()) > len(results) / 2


@pytest.mark.slow
def test_the_exploding_cube_really_flies(results: dict[str, AttackResult]) -> None:
    assert results["explosion"].accepted_by_robosuite  # its centre was 4 cm above the table


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_honest_lifts_of_other_cubes_are_accepted(blind_sim: Simulator, seed: int) -> None:
    result = run_honest(blind_sim, seed)
    assert result.accepted, result.words
    assert result.accepted_by_second_judge
    assert result.push_m is not None
    assert result.push_m < MAX_PUSH_M
    assert result.hold is not None
    assert all(least <= most for least, most in result.hold.values())
