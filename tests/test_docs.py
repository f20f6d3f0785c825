"""The documents: every figure is that of its result file, every link and command leads somewhere."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tests.attacks.attacks import ATTACKS
from tests.conftest import ROOT
from vla.errors import UserError
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.files import SHIPPED, sha256
from vla.judging.thresholds import Thresholds
from vla.judging.verdict import CONDITIONS
from vla.sim.perturbations import AXES

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "checkpoints/lift.md",
    "checkpoints/language.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
NOT_MEASURED = {"10/10", "0/10", "52 ms", "4 of 255"}
"""What the report's own Table 4 says, and a limit of the page's; no measurements of ours."""


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(benchmarks: Any) -> Any:
    return benchmarks("results").Results()


# Figures


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_figure_is_that_of_its_result_file(document: str, benchmarks: Any, results: Any) -> None:
    text = read(document)
    assert benchmarks("tables").render(text, results, document) == text, "run: python benchmarks/tables.py"


def test_the_generator_looks_at_every_document(benchmarks: Any) -> None:
    assert {path.relative_to(ROOT).as_posix() for path in benchmarks("tables").documents()} == set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_rate_or_time_stands_outside_a_figure(document: str) -> None:
    prose = re.sub(r"<!-- =.*?<!-- / -->|```.*?```|`[^`]*`", "", read(document), flags=re.DOTALL)
    found = re.findall(r"\b\d+/\d+\b|\b\d[\d.]* ms\b|\bp = [\d.]+|\b\d+ of \d+\b", prose)
    assert set(found) <= NOT_MEASURED


def test_every_result_file_is_shown(benchmarks: Any) -> None:
    shown: dict[str, Any] = {}
    results = benchmarks("results").Results()
    recorder = type("Recorder", (), {"__getitem__": lambda _, name: shown.setdefault(name, results[name])})()
    for document in DOCUMENTS:
        benchmarks("tables").render(read(document), recorder, document)
    assert {path.stem for path in ROOT.glob("docs/results/*.json")} == set(shown)


def test_a_stale_result_is_refused(benchmarks: Any, tmp_path: Path) -> None:
    def refused(name: str, reason: str, change: Any) -> None:
        content = json.loads(read(f"docs/results/{name}.json"))
        change(content)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=reason):
            benchmarks("results").Results(tmp_path)[name]

    refused("shipped", "other thresholds", lambda content: content["thresholds"].update(hold_steps=10))
    refused("shipped", "which thresholds", lambda content: content.pop("thresholds"))
    refused("shipped", "mujoco 3.3.7", lambda content: content["versions"].update(mujoco="3.3.7"))
    refused("shipped", "another policy", lambda content: content.update(checkpoint_sha256="0"))
    refused("shipped", "results_version", lambda content: content.update(results_version=RESULTS_VERSION - 1))
    refused("attacks", "other attacks", lambda content: content["attacks"].popitem())
    refused("attacks", "other thresholds", lambda content: content["honest"]["hold"][0].update(accepted="> 40"))
    refused("perturb_expert", "size", lambda content: content["cells"]["action-noise:1"].update(size=0.2))
    with pytest.raises(UserError, match="cannot be read"):
        benchmarks("results").Results(tmp_path)["never-measured"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a <!-- =rate shipped -->1/1 b", "not closed"),
        ("a <!-- =rate shipped -->1 <!-- =rate blind -->2<!-- / -->", "not closed"),
        ("a\n- <!-- =rate shipped -->1<!-- / -->", "begins a line"),
        ("a <!-- =rat shipped -->1<!-- / -->", "no figure 'rat'"),
        ("a <!-- =rate shipped flown -->1<!-- / -->", "'rate shipped flown' cannot be made"),
    ],
)
def test_a_figure_that_cannot_be_shown_is_an_error(text: str, reason: str, benchmarks: Any, results: Any) -> None:
    with pytest.raises(UserError, match=reason):
        benchmarks("tables").render(text, results, "text")


def test_controls_are_reused_only_where_nothing_has_changed(benchmarks: Any, tmp_path: Path) -> None:
    stands = benchmarks("controls").stands
    path, arguments = tmp_path / "results.json", ("--checkpoint", "checkpoints/lift.pth", "--blind")
    good = {
        "results_version": RESULTS_VERSION,
        "episodes": [{}, {}],
        "versions": run_versions(),
        "thresholds": dataclasses.asdict(Thresholds()),
        "checkpoint_sha256": sha256(ROOT / SHIPPED),
    }
    assert not stands(path, arguments, 2)
    path.write_text(json.dumps(good))
    assert stands(path, arguments, 2)
    assert not stands(path, arguments, 3)
    assert not stands(path, ("--policy", "zero"), 2)
    for name in good:
        path.write_text(json.dumps({**good, name: []}))
        assert not stands(path, arguments, 2), name


# Links, names, commands


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for target in LINK.findall(re.sub(r"```.*?```", "", read(document), flags=re.DOTALL)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (ROOT / document).parent / path if path else ROOT / document
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text(encoding="utf-8")), target


def anchors(text: str) -> list[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_is_there(document: str) -> None:
    ours = r"(?:vla|tests|benchmarks|docs)/[\w./-]+|\d_\w+\.py|\w+\.md\b|web_interface\.py"
    for name in re.findall(rf"`({ours})`", read(document)):
        if name not in ("compare.md", "perturb.md", "results.md"):  # of an evaluation
            assert (ROOT / name).exists(), name


def test_readme_is_short_and_names_scripts_packages_and_documents() -> None:
    readme = read("README.md")
    assert len(readme.splitlines()) <= 150
    for script in SCRIPTS:
        assert f"`{script}`" in readme
    for package in ROOT.glob("vla/*/__init__.py"):
        assert f"`vla.{package.parent.name}`" in readme
    for document in DOCUMENTS:
        assert document == "README.md" or f"({document})" in readme, document


def options_of(script: str) -> set[str]:
    """Every option on the command line of a script or benchmark."""
    module = importlib.import_module(Path(script).stem)
    options = get_type_hints(module.main)["options"]
    names = [field.name.rstrip("_").replace("_", "-") for field in dataclasses.fields(options)]  # --import is import_
    return {f"--{prefix}{name}" for name in names for prefix in ("", "no-")}


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_has_the_options_that_are_given(document: str) -> None:
    text = read(document)
    known = {script: options_of(script) for script in SCRIPTS}
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), flags=re.MULTILINE))
    for line in text.splitlines():
        command = re.search(r"python ((?:benchmarks/)?\w+\.py)([^#`|]*)", line)
        if command and (script := command[1]):
            known.setdefault(script, options_of(script))
            assert set(re.findall(r"--[a-z][a-z-]*", command[2])) <= known[script] | {"--help"}, line
    every = set().union(*known.values())
    for option in re.findall(r"`(--[a-z][a-z-]*)", text):
        assert option in every or option in ("--check", "--help"), option
    for target in re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, flags=re.MULTILINE):
        assert "".join(target) in targets, target


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/adapt.md", "checkpoints/lift.md", "checkpoints/language.md"])
def test_the_python_examples_run(document: str) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", read(document), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if document == "README.md":
        assert done.stdout.startswith("SUCCESS")


# Counts and facts in the prose


def test_the_prose_counts_what_is_there() -> None:
    assert f"try {len(ATTACKS)} ways" in read("Makefile")
    rows = read("docs/verdict.md").split("| --- | --- | --- |\n")[1].split("\n\n")[0].splitlines()
    assert [row.split(" | ")[0].strip("| ").replace(" ", "_") for row in rows] == list(CONDITIONS)
    assert len(CONDITIONS) == 13
    assert "thirteen" in read("README.md")
    assert "these thirteen" in read("docs/verdict.md")
    assert f"{len(AXES)} axes" in read("docs/perturbations.md")
    assert sum(attack["accepted"] for attack in json.loads(read("docs/results/attacks.json"))["attacks"].values()) == 0


def test_the_shipped_policy_is_small_enough_for_git() -> None:
    assert (ROOT / SHIPPED).stat().st_size < 50e6


def test_the_citation_is_of_this_version_and_this_report() -> None:
    citation = read("CITATION.cff")
    for key in ("cff-version: 1.2.0", "message: ", "title: ", "authors:", "license: MIT", "type: software"):
        assert re.search(f"^{key}", citation, flags=re.MULTILINE), key
    (version,) = re.findall(r"^version: (.+)$", citation, flags=re.MULTILINE)
    assert f'version = "{version}"' in read("pyproject.toml")
    (report,) = re.findall(r'^    title: "(.+)"$', citation, flags=re.MULTILINE)
    assert report in " ".join(read("README.md").split())
    assert read("LICENSE").startswith("MIT License")
