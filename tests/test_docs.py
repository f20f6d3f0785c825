"""The README's figures, and the model card's, are those of the result files."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from tests.attacks.attacks import ATTACKS
from tests.conftest import ROOT
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.evaluation.statistics import rate
from vla.files import sha256
from vla.judging.verdict import CONDITIONS, Thresholds


@pytest.mark.parametrize("name", ["results", "controls", "what_matters", "peer", "web_load"])
def test_readme_shows_the_result_file(name: str) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()
    assert shown == (ROOT / f"docs/results/{name}.md").read_text().strip()


@pytest.mark.parametrize("name", ["perturb", "perturb_expert"])
def test_the_perturbation_tables_are_the_measured_ones(name: str) -> None:
    page = (ROOT / "docs/perturbations.md").read_text()
    shown = page.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()
    assert shown == (ROOT / f"docs/results/{name}.md").read_text().strip()


def test_tables_are_written_from_the_result_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name, table in importlib.import_module("tables").TABLES.items():
        measured = ROOT / f"docs/results/{name}.json"
        if measured.exists():
            assert table(json.loads(measured.read_text())) + "\n" == measured.with_suffix(".md").read_text(), name


def test_controls_are_reused_only_where_nothing_has_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    stands = importlib.import_module("controls").stands
    path, arguments = tmp_path / "results.json", ("--checkpoint", "checkpoints/lift.pth", "--blind")
    good = {
        "results_version": RESULTS_VERSION,
        "episodes": [{}, {}],
        "versions": run_versions(),
        "thresholds": dataclasses.asdict(Thresholds()),
        "checkpoint_sha256": sha256(ROOT / "checkpoints/lift.pth"),
    }
    assert not stands(path, arguments, 2)
    path.write_text(json.dumps(good))
    assert stands(path, arguments, 2)
    assert not stands(path, arguments, 3)
    assert not stands(path, ("--policy", "zero"), 2)
    for name in good:
        path.write_text(json.dumps({**good, name: []}))
        assert not stands(path, arguments, 2), name


def test_readme_names_every_file_that_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in [*ROOT.glob("*.py"), *(ROOT / "vla").glob("[a-z]*.py")]:
        assert path.name in readme, path.name


def test_shipped_policy_is_the_one_that_was_measured() -> None:
    texts = [(ROOT / name).read_text() for name in ("README.md", "checkpoints/lift.md")]
    shipped = ROOT / "checkpoints/lift.pth"
    assert shipped.stat().st_size < 50e6
    for name in ("shipped", "instructions", "blind"):
        results = json.loads((ROOT / f"docs/results/{name}.json").read_text())
        assert results["checkpoint_sha256"] == sha256(shipped)
        by_instruction: dict[str, list[bool]] = {}
        for episode in results["episodes"]:
            by_instruction.setdefault(episode["instruction"], []).append(episode["success"])
        for instruction, successes in by_instruction.items():
            figure = rate(sum(successes), len(successes))
            assert all(f"{instruction} | {figure} |" in text for text in texts), (name, instruction, figure)


def test_the_prose_counts_what_is_there() -> None:
    assert f"try {len(ATTACKS)} ways" in (ROOT / "Makefile").read_text()
    table = (ROOT / "docs/verdict.md").read_text().split("| --- |\n")[1].split("\n\n")[0]
    assert [row.split(" | ")[0].strip("| ").replace(" ", "_") for row in table.splitlines()] == list(CONDITIONS)


def test_the_attack_tables_are_the_result_files() -> None:
    shown = (ROOT / "docs/verdict.md").read_text().split("<!-- attacks -->")[1].split("<!-- /attacks -->")[0].strip()
    assert shown == (ROOT / "docs/results/attacks.md").read_text().strip()
    results = json.loads((ROOT / "docs/results/attacks.json").read_text())
    assert set(results["attacks"]) == set(ATTACKS)
    attacks = results["attacks"].values()
    assert sum(attack["accepted"] for attack in attacks) == 0
    readme = (ROOT / "README.md").read_text()
    assert f"{len(ATTACKS)} ways to cheat" in readme
    assert f"{len(ATTACKS)} attacks on it" in readme
    assert f"the verdict accepted none of {sum(attack['runs'] for attack in attacks):,}" in readme
    assert f"robosuite's own check {sum(attack['accepted_by_robosuite'] for attack in attacks):,}" in readme
    assert f"{results['honest']['accepted']} honest lifts of other cubes were all accepted" in readme
