"""The language suite: what is said of which start, what is counted, and how it runs; evaluation in the scene cubes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vla.sim.workers
from tests.conftest import ROOT, assert_user_error, run_script, wait_for
from vla.errors import UserError
from vla.evaluation.asked_episodes import AskedEpisode, Switch, cubes_episodes
from vla.evaluation.episode import died_episode
from vla.evaluation.language_cases import OTHER_LANGUAGES, SWITCH_STEP, Case
from vla.evaluation.language_parts import BLOCK_SEEDS, FIRST_OFFSET, PARTS, part_cases
from vla.evaluation.language_report import write_heat_map, write_language_page
from vla.evaluation.language_results import suite_results
from vla.evaluation.language_rows import Row, RowsFile, different_starts
from vla.evaluation.language_suite import LANGUAGE_VERSION
from vla.evaluation.language_tables import suite_markdown, suite_tables
from vla.evaluation.perturb import LIFT_ONLY, perturbations_for
from vla.evaluation.plan import EvaluationPlan, control_subject
from vla.evaluation.worker import evaluate_in_worker
from vla.policies.asked import target_of
from vla.policies.checkpoint import save_checkpoint
from vla.policies.execution import ControlConfig
from vla.policies.grammar import MEANINGS, meaning_of, wordings
from vla.policies.network import model_architecture
from vla.policies.preprocess import ImageSpec
from vla.policies.wordings import HELD_OUT_PAIRS, HELD_OUT_WORDS, SPLITS
from vla.sim.config import TEST_SEEDS, EnvConfig, Scene
from vla.sim.env import Simulator
from vla.sim.perturbations import AXES
from vla.sim.table import table_layout

TWO = Scene("cubes", (2,))
SCRIPT = ROOT / "5_evaluate.py"


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    """All episodes of the suite, by part."""
    found = part_cases(tuple(PARTS), TEST_SEEDS)
    return {name: [case for case in found if case.part == name] for name in PARTS}


@pytest.fixture(scope="module")
def cubes_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of the scene cubes that knows all wordings of training, with embeddings that are made up."""
    torch.manual_seed(0)
    architecture = model_architecture()
    image = ImageSpec(size_px=32)
    network = architecture.VLA(architecture.ModelConfig(image=image, observation_horizon=1, text_dim=8))
    texts = [text for meaning in MEANINGS for text in wordings(meaning, "training")]
    embeddings = torch.randn(len(texts), 8)
    network.fit_language(embeddings)
    path = tmp_path_factory.mktemp("policy") / "cubes.pth"
    content = {
        "model_config": network.config.to_dict(),
        "model": network.state_dict(),
        "vision_identity": {"source": "untrained", "pretrained": False, "why": "a test"},
        "text_identity": {"encoder": "minilm", "source": "made up", "pretrained": True, "sha256": 64 * "0"},
        "language": {"texts": texts, "embeddings": embeddings},
        "env_args": EnvConfig(scene=Scene("cubes", (2, 3), 0.25)).to_env_args(),
        "training": {"epoch": 0},
    }
    save_checkpoint(path, content)
    return path


# What is said


def test_the_parts_have_as_many_unseen_seeds_as_was_asked_for(cases: dict[str, list[Case]]) -> None:
    seeds = {name: {case.episode.seed for case in part} for name, part in cases.items()}
    assert len(seeds["two-cubes"]) == 200
    assert {len(seeds[name]) for name in ("three-cubes", "four-cubes", "places", "same-colour", "do-nothing")} == {100}
    assert {len(seeds[name]) for name in ("absent", "held-out-pairs", "negation", "blank")} == {100}
    for name, found in seeds.items():
        first = 2_120_000 + PARTS[name].block.number * BLOCK_SEEDS
        assert first <= min(found) <= max(found) < first + BLOCK_SEEDS
    small = part_cases(("two-cubes", "absent"), TEST_SEEDS, 6)
    assert [len({case.episode.seed for case in small if case.part == name}) for name in ("two-cubes", "absent")] == [
        6,
        3,
    ]
    with pytest.raises(UserError, match="--num-episodes 1001: the part two-cubes needs 1001 seeds"):
        part_cases(("two-cubes",), TEST_SEEDS, 1001)


def test_what_is_said_names_the_target_in_its_scene(cases: dict[str, list[Case]]) -> None:
    for case in (case for part in cases.values() for case in part):
        last = case.episode.instructions[-1]
        if case.part not in ("blank", "shuffled", "other-languages"):
            assert target_of(last, case.layout()) == case.episode.target
        if case.episode.switch is not None:
            first = target_of(case.episode.instruction, case.layout())
            assert first == case.episode.switch.first_target == 1 - (case.episode.target or 0)
    for name in ("two-cubes", "three-cubes", "four-cubes", "places", "same-colour"):
        by_seed: dict[int, list[int | None]] = {}
        for case in cases[name]:
            by_seed.setdefault(case.episode.seed, []).append(case.episode.target)
        assert all(len(targets) == len(set(targets)) > 1 for targets in by_seed.values())  # pairs that differ


def test_only_what_shall_be_new_to_the_policy_is_new(cases: dict[str, list[Case]]) -> None:
    reworded = {name for name in cases if name.startswith("held-out-")} - {"held-out-pairs"}
    reworded |= {"blank", "shuffled", "other-languages"}
    for name, part in cases.items():
        texts = {text for case in part for text in case.episode.instructions}
        known = {text for text in texts if (meaning := meaning_of(text)) and text in wordings(meaning, "training")}
        assert known == (set() if name in reworded else texts), name
    for name, split in (("held-out-verbs", "verb"), ("held-out-every-word", "every word"), ("places", "training")):
        for case in cases[name]:
            assert case.said.text in wordings(case.said.meaning, next(each for each in SPLITS if each == split))
    pairs = {(case.said.meaning.colour, case.said.meaning.place) for case in cases["held-out-pairs"]}
    assert pairs == set(HELD_OUT_PAIRS)
    for name in ("same-colour", "places", "two-cubes", "negation"):
        assert not any(case.said.meaning.held_out for case in cases[name])
    assert not HELD_OUT_WORDS & {word for case in cases["two-cubes"] for word in case.said.text.lower().split()}
    details = {case.said.detail for case in cases["absent"]}
    assert details == {"colour of other cubes", "colour that no cube has", "held-out colour"}


def test_other_words_are_said_of_the_same_cube_in_the_same_start(cases: dict[str, list[Case]]) -> None:
    for name, part in PARTS.items():
        if part.reference is None:
            continue
        assert part.block == PARTS[part.reference].block
        drawn = {case.episode.seed: case for case in cases[part.reference] if case.number == 0}
        for case in cases[name]:
            reference = drawn[case.episode.seed]
            assert (case.said.meaning, case.episode.target) == (reference.said.meaning, reference.episode.target)
            assert case.said.text != reference.said.text
            if name == "shuffled":
                assert sorted(case.said.text.split()) == sorted(reference.said.text.lower().split())
    assert {case.said.text for case in cases["blank"]} == {""}
    assert {case.said.detail for case in cases["other-languages"]} == set(OTHER_LANGUAGES)


def test_each_seed_is_told_what_fits_and_scenes_that_a_sentence_does_not_fit_are_passed_over() -> None:
    own = cubes_episodes(Scene("cubes"), 80, 2_000_000, None)
    assert own == cubes_episodes(Scene("cubes"), 80, 2_000_000, None)
    assert [episode.seed for episode in own] == list(range(2_000_000, 2_000_080))
    for episode in own:
        assert episode.target == target_of(episode.instruction, table_layout(Scene("cubes"), episode.seed))
    assert len({episode.target for episode in own}) == 5  # four cubes, and nothing
    green = cubes_episodes(TWO, 10, 2_000_000, "lift the GREEN cube.")
    seeds = [episode.seed for episode in green]
    assert seeds == sorted(set(seeds))
    assert seeds[-1] > 2_000_009
    for seed in range(2_000_000, seeds[-1] + 1):
        colours = [cube.colour for cube in table_layout(TWO, seed).cubes]
        assert (seed in seeds) == ("green" in colours)
    assert all(table_layout(TWO, each.seed).cubes[each.target or 0].colour == "green" for each in green)
    assert {episode.target for episode in cubes_episodes(TWO, 5, 0, "Lift the purple cube")} == {None}
    with pytest.raises(UserError, match=r"fits none of 1000 scenes of 3 or 4 cubes; .*--cubes 2"):
        cubes_episodes(Scene("cubes", (3, 4)), 1, 0, "Lift the cube that is not red")
    with pytest.raises(UserError, match='"Lift the gizmo" is no instruction of the scene cubes'):
        cubes_episodes(TWO, 1, 0, "Lift the gizmo")


# What is counted


def _row(part: str, seed: int, number: int, target: int | None, lifted: list[int], **more: Any) -> Row:
    success = lifted == ([] if target is None else [target])
    row = Row(
        *(part, seed, number, "Lift the red cube", None, "red", None if target is None else ("red", "blue")[target]),
        target=target,
        cube_colours=["red", "blue"],
        first_touched=lifted[0] if lifted else None,
        cubes_moved_m=[0.1 if number in lifted else 0.0 for number in (0, 1)],
        cubes_lifted=lifted,
        success=success,
        failure_kind=None if success else "wrong_object",
        invalid_reason=None,
        steps=50,
        switched_step=None,
        judges_agree=True,
        start="0" * 12,
    )
    return replace(row, **more)


def _rows() -> list[Row]:
    """Two cubes: seed 1 obeys both instructions, seed 2 the first only, seed 3 neither, as it lifts nothing."""
    both = [_row("two-cubes", 1, 0, 0, [0]), _row("two-cubes", 1, 1, 1, [1])]
    one = [_row("two-cubes", 2, 0, 1, [1]), _row("two-cubes", 2, 1, 0, [1])]
    none = [_row("two-cubes", 3, 0, 0, [], success=False), _row("two-cubes", 3, 1, 1, [], success=False)]
    still = [_row("do-nothing", 4, 0, None, [], said="nothing"), _row("do-nothing", 5, 0, None, [0, 1], said="nothing")]
    verbs = [_row("held-out-verbs", 1, 0, 0, [0]), _row("held-out-verbs", 2, 0, 1, [0])]
    after = [
        _row("switch-after-grasp", 1, 0, 0, [1, 0], switched_step=20),
        _row("switch-after-grasp", 2, 0, 1, [1], switched_step=22),
        _row("switch-after-grasp", 3, 0, 1, []),
    ]
    return [*both, *one, *none, *still, *verbs, *after]


def test_rates_are_of_seeds_and_pairs_count_only_whole() -> None:
    content = suite_results(_rows())
    measures = content["parts"]["two-cubes"]["measures"]
    right, wrong = measures["right"], measures["wrong_object"]
    assert [(right[unit]["count"], right[unit]["of"]) for unit in ("one_each", "all_of_seed", "episodes")] == [
        (2, 3),
        (1, 3),
        (3, 6),
    ]
    assert right["all_of_seed"]["interval_95"] == pytest.approx((0.0084, 0.9057), abs=1e-4)  # Clopper-Pearson
    assert [(wrong[unit]["count"], wrong[unit]["of"]) for unit in ("one_each", "any_of_seed")] == [(0, 3), (1, 3)]
    assert measures["named_first"]["episodes"] == {"count": 3, "of": 6}
    assert measures["others_left_alone"]["episodes"] == {"count": 5, "of": 6}
    assert content["parts"]["two-cubes"]["chance"] == 0.5
    still = content["parts"]["do-nothing"]
    assert (still["chance"], still["measures"]["right"]["one_each"]["count"]) == (0, 1)
    assert still["measures"]["wrong_object"]["any_of_seed"]["count"] == 1
    assert set(still["measures"]) == {"right", "wrong_object"}
    assert content["said_x_lifted"] == {
        "said": ["red", "blue", "nothing"],
        "lifted": ["red", "green", "blue", "yellow", "nothing", "several"],
        "counts": [[1, 0, 1, 0, 1, 0], [0, 0, 2, 0, 1, 0], [0, 0, 0, 0, 1, 1]],
    }
    words = content["wordings"]["held-out-verbs"]
    assert (words["right"], words["reference_right"], words["only_reference"], words["pairs"]) == (1, 2, 1, 2)
    assert content["after_grasp"] == {
        **{"episodes": 3, "grasped the first cube": 2, "second cube only": 1},
        **{"first cube only": 0, "both cubes": 1, "no cube": 0},
    }


def test_an_invalid_episode_obeys_in_nothing() -> None:
    died = _row("two-cubes", 1, 0, 0, [], success=False, cubes_moved_m=[], invalid_reason="it died", start=None)
    measures = suite_results([died])["parts"]["two-cubes"]["measures"]
    assert [measure["one_each"]["count"] for measure in measures.values()] == [0, 0, 0, 0]


def test_tables_heat_map_and_page_show_what_was_counted(tmp_path: Path) -> None:
    content = json.loads(json.dumps(suite_results(_rows())))
    text = suite_markdown(content)
    assert "| two-cubes " in text
    assert "1/3 = 33.3% [0.8%, 90.6%]" in text
    assert "| held-out-verbs | 1/2 = 50% | 2/2 = 100% (two-cubes) | -50    | 0, 1 " in text
    write_heat_map(tmp_path / "heat.png", content)
    with Image.open(tmp_path / "heat.png") as picture:
        assert picture.size > (400, 200)
    write_language_page(tmp_path / "page.html", "<policy>", {"weights": "none"}, content, tmp_path / "heat.png")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;policy&gt;" in page
    assert all(f"<td>{cell}</td>" in page for cell in suite_tables(content)["Said and lifted, in episodes"][1])
    assert page.count("data:image/png") == 1
    write_language_page(tmp_path / "bare.html", "policy", {}, content, None)
    assert "data:image/png" not in (tmp_path / "bare.html").read_text()


def test_rows_survive_a_run_that_is_killed_while_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: dict[str, list[Case]]
) -> None:
    file = RowsFile(tmp_path, {"seeds": [1, 2]})
    assert file.load() == []
    case = cases["three-cubes"][0]
    died = Row.of(case, died_episode(case.episode.seed, case.episode.instruction, "it died", case.episode.target))
    assert (died.target, len(died.cube_colours), died.start) == (case.episode.target, 3, None)
    rows = [*_rows()[:2], died]
    for row in rows:
        file.add(row)
    with open(file.path, "a") as cut:
        cut.write('{"part": "two-cubes", "se')
    assert file.load() == rows
    assert f"line 4 of {file.path} is damaged" in capsys.readouterr().out
    file.add(rows[0])
    assert file.load() == [*rows, rows[0]]
    assert RowsFile(tmp_path, {"seeds": [1, 3]}).load() == []
    file.remove()
    assert not any(tmp_path.iterdir())


# What is refused


def _options(**given: Any) -> Any:
    return importlib.import_module("5_evaluate").EvaluateOptions(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instruction": " "}, "--instruction is empty"),
        ({"instruction": "a" * 1001}, "--instruction has 1001 characters, and at most 1000"),
        ({"language_suite": True, "instruction": "Lift the red cube"}, "of its own; leave --instruction out"),
        ({"language_suite": True, "cubes": (2,), "seed": 2_000_001}, "leave --seed --cubes out"),
        ({"language_suite": True, "scene": "lift"}, "leave --scene out"),
        ({"language_suite": True, "parts": ("two-cubes", "three")}, "--parts three: the parts .* are two-cubes, three"),
        ({"parts": ("two-cubes",)}, "add --language-suite"),
        ({"language_suite": True, "perturb": "all"}, "--perturb and --language-suite were given together"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        _options(**given)


def test_a_policy_is_evaluated_in_the_scene_that_it_was_trained_in(tmp_path: Path, cubes_checkpoint: Path) -> None:
    lift = ROOT / "checkpoints/lift.pth"
    with pytest.raises(UserError, match=r"lift\.pth was trained in the scene lift, not in cubes; .* --scene lift, or"):
        _options(scene="cubes").env(lift)
    with pytest.raises(UserError, match=r"lift\.pth was trained in the scene lift, not in cubes"):
        _options(language_suite=True).env(lift)
    with pytest.raises(UserError, match="was trained in the scene cubes, not in lift"):
        _options(scene="lift").env(cubes_checkpoint)
    with pytest.raises(UserError, match="--cubes and --same-colour-share are for the scene cubes"):
        _options(cubes=(2,)).env(lift)
    with pytest.raises(UserError, match=r"2 to 4 cubes, got \(5,\)"):
        _options(cubes=(5,)).env(cubes_checkpoint)
    own = _options().env(cubes_checkpoint).scene
    assert own == Scene("cubes", (2, 3), 0.25)
    assert _options(cubes=(4,)).env(cubes_checkpoint).scene == replace(own, counts=(4,))
    assert _options(policy="expert").env(tmp_path).scene == Scene()
    assert _options(policy="expert", scene="cubes").env(tmp_path).scene == Scene("cubes")
    with pytest.raises(UserError, match="every seed has an instruction of its own: leave it out"):
        _options(every_instruction=True).episodes(EnvConfig(scene=TWO))


def test_what_the_scene_of_cubes_does_not_have_is_not_perturbed() -> None:
    assert {each.axis for each in perturbations_for("all", "cubes")} == set(AXES) - set(LIFT_ONLY)
    assert len(perturbations_for("all", "lift")) == 3 * len(AXES)
    with pytest.raises(UserError, match="--perturb cube-colour: the scene cubes draws"):
        perturbations_for("cube-colour", "cubes")


# How it runs


@pytest.fixture(scope="module")
def worker() -> Iterator[Simulator]:
    """This process as a worker of the scene cubes, without images."""
    simulator = Simulator(EnvConfig(scene=Scene("cubes")), render_images=False)
    before, vla.sim.workers._simulator = vla.sim.workers._simulator, simulator
    yield simulator
    vla.sim.workers._simulator = before


def _run(*episodes: AskedEpisode) -> list[Any]:
    plan = EvaluationPlan(
        *(episodes, "test", 200, ControlConfig(), False, False, False, 1, "auto", {}),
        scene=Scene("cubes"),
        recorded=False,
    )
    subject = control_subject("expert", plan.instructions)
    return [evaluate_in_worker(task) for task in plan.tasks(subject, None)]


@pytest.mark.slow
def test_a_seed_begins_in_the_same_state_whatever_is_said_and_run_before(worker: Simulator) -> None:
    two, four = Scene("cubes", (2,)), Scene("cubes", (4,))
    ran = _run(
        AskedEpisode(2_100_000, "a", 0, two),
        AskedEpisode(2_102_000, "b", 3, four),
        AskedEpisode(2_100_000, "c", 1, two),
        AskedEpisode(2_100_000, "d", None, two),
    )
    starts = [episode.recording.states for episode in ran]
    assert [len(states) for states in starts] == [1, 1, 1, 1]
    np.testing.assert_array_equal(starts[0], starts[2])
    np.testing.assert_array_equal(starts[0], starts[3])
    assert not np.array_equal(starts[0], starts[1])
    assert [episode.result.success for episode in ran] == [True] * 4
    assert [episode.result.cubes_lifted for episode in ran] == [[0], [3], [1], []]
    assert ran[3].result.steps == 60
    rows = [_row("two-cubes", 1, number, 0, [0], start=start) for number, start in enumerate(("a", "b"))]
    assert different_starts(rows) == [1]
    assert different_starts([replace(row, start="a") for row in rows]) == []


@pytest.mark.slow
def test_another_cube_named_on_the_way_is_lifted_instead(worker: Simulator) -> None:
    before, after = _run(
        AskedEpisode(2_100_000, "a", 0, TWO, Switch("b", 1, SWITCH_STEP)),
        AskedEpisode(2_100_000, "a", 0, TWO, Switch("b", 1, None)),
    )
    assert (before.switched_step, before.result.first_touched, before.result.cubes_lifted) == (SWITCH_STEP, 0, [0])
    assert before.result.success
    assert before.result.judges_agree
    assert after.switched_step > SWITCH_STEP
    assert (after.result.first_touched, after.result.cubes_lifted) == (1, [0])
    assert after.result.judges_agree


@pytest.mark.slow
def test_a_killed_suite_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = (
        *("--policy", "expert", "--language-suite", "--num-episodes", "2", "--workers", "1"),
        *("--parts", "two-cubes", "do-nothing", "--max-steps", "20", "--output-dir", "suite"),
    )
    command = [sys.executable, str(SCRIPT), *arguments]
    victim = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: any("\n" in path.read_text() for path in tmp_path.glob("suite/partial-language-*.jsonl")))
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate(timeout=60)
    (partial,) = tmp_path.glob("suite/partial-language-*.jsonl")
    begun = partial.read_text().splitlines()
    done = run_script(SCRIPT, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"continuing: {len(begun)} of 5 episodes are finished" in done.stdout
    content = json.loads((tmp_path / "suite/language.json").read_text())
    first = TEST_SEEDS.start + FIRST_OFFSET
    assert [(row["part"], row["seed"], row["number"]) for row in content["episodes"]] == [
        *(("two-cubes", seed, number) for seed in (first, first + 1) for number in (0, 1)),
        ("do-nothing", first + 6 * BLOCK_SEEDS, 0),
    ]
    assert content["episodes"][0] == json.loads(begun[0])
    assert content["language_version"] == LANGUAGE_VERSION
    assert content["judges_disagree"] == 0
    assert content["parts"]["do-nothing"]["measures"]["right"]["one_each"]["count"] == 1
    written = {path.name for path in (tmp_path / "suite").iterdir() if path.name != ".lock"}
    assert written == {"language.json", "language.md", "language.png", "language.html"}


@pytest.mark.slow
def test_a_policy_of_several_cubes_is_compared_and_judged_again(tmp_path: Path, cubes_checkpoint: Path) -> None:
    quick = ("--max-steps", "3", "--no-videos")
    compare = ("--compare", cubes_checkpoint, cubes_checkpoint, "--num-episodes", "2", "--seed", "2000000")
    done = run_script(SCRIPT, *compare, *quick, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "videos/a/results.json").read_text())
    layouts = [table_layout(Scene("cubes", (2, 3), 0.25), episode["seed"]) for episode in results["episodes"]]
    for layout, episode in zip(layouts, results["episodes"], strict=True):
        assert episode["target"] == target_of(episode["instruction"], layout)
        assert episode["cube_colours"] == [cube.colour for cube in layout.cubes]
    assert results["skipped_seeds"] == []
    assert results["obedience"]
    assert "| obedience " in (tmp_path / "videos/a/results.md").read_text()
    assert "named: <b>" in (tmp_path / "videos/a/report.html").read_text()
    again = run_script(SCRIPT, "--rejudge", "videos/a/episodes.hdf5", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "the judges agree on 2 of 2 episodes" in again.stdout


@pytest.mark.slow
def test_bad_input_ends_with_one_line(cubes_checkpoint: Path) -> None:
    done = run_script(SCRIPT, "--checkpoint", cubes_checkpoint, "--instruction", "Lift the gizmo")
    assert_user_error(done, '"Lift the gizmo" is no instruction of the scene cubes', "Lift the green cube")


def test_a_sentence_that_needs_an_encoder_with_another_hash_is_refused(cubes_checkpoint: Path, tmp_path: Path) -> None:
    """The checkpoint does not know it, and the hash of its encoder is made up."""
    options = _options(checkpoint=cubes_checkpoint, instruction="Hoist the green cube", output_dir=tmp_path / "out")
    with pytest.raises(UserError, match=r"text encoder.*(SHA-256 000000000000|requirements-language)") as refused:
        importlib.import_module("5_evaluate").main(options)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
