"""Perturbations: each changes what its size says, and the episode after it is as before; evaluations under them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, assert_user_error, run_script
from vla.errors import UserError
from vla.evaluation.perturbation_table import paired, read_cells, write_cells
from vla.experts.controls import control
from vla.judging.thresholds import Thresholds
from vla.sim.effect import Effect
from vla.sim.env import Simulator
from vla.sim.perturbations import AXES, Perturbation, parse_perturbations

STEPS_TO_SEE = {"cube-push": 12, "arm-push": 14, "snatch": 30}
"""Control steps until the effect of a perturbation shows; 3 for the others."""


@pytest.mark.parametrize("axis", AXES)
def test_a_perturbation_changes_something_and_is_taken_back(sim: Simulator, axis: str) -> None:
    def watch() -> tuple[np.ndarray, np.ndarray]:
        actor = control("expert")
        observation = sim.reset(2_000_000)
        actor.reset("", 2_000_000)
        images = [observation.image]
        for _ in range(STEPS_TO_SEE.get(axis, 3)):
            observation, _ = sim.step(actor.select_action(observation).action)
            images.append(observation.image)
            assert not observation.evidence.world_change  # whatever was changed was declared
        return np.concatenate([sim.state(), sim.model.body_mass, sim.model.geom_friction[:, 0]]), np.stack(images)

    plain = watch()
    sim.perturbation = Perturbation(axis, 3)
    perturbed, again = watch(), watch()
    sim.perturbation = None
    after = watch()
    np.testing.assert_array_equal(perturbed[0], again[0])
    np.testing.assert_array_equal(perturbed[1], again[1])
    np.testing.assert_array_equal(plain[0], after[0])
    np.testing.assert_array_equal(plain[1], after[1])
    assert not np.array_equal(plain[0], perturbed[0]) or not np.array_equal(plain[1], perturbed[1])


@pytest.mark.slow
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_snatched_cube_does_not_jump(sim: Simulator, level: int) -> None:
    """If it jumped, the verdict would fail a policy that grasps it again at once."""
    actor = control("expert")
    sim.perturbation = Perturbation("snatch", level)
    try:
        observation = sim.reset(2_000_000)
        actor.reset("", 2_000_000)
        positions = [observation.evidence.cube_pos]
        heights = [observation.evidence.height_m]
        for _ in range(60):
            observation, _ = sim.step(actor.select_action(observation).action)
            positions.append(observation.evidence.cube_pos)
            heights.append(observation.evidence.height_m)
    finally:
        sim.perturbation = None
    assert max(np.linalg.norm(np.diff(positions, axis=0), axis=1)) < Thresholds().max_jump_m
    raised = next(index for index, height in enumerate(heights) if height > 0.04)
    landed = next(index for index, height in enumerate(heights) if index > raised and height < 0.002)
    back = next(
        positions[index]
        for index in range(landed, 60)
        if np.allclose(positions[index], positions[index + 1], atol=1e-4)
    )
    assert abs(np.linalg.norm((back - positions[0])[:2]) - AXES["snatch"].sizes[level - 1]) < 0.01


def test_perturbations_are_read_from_the_command_line() -> None:
    assert len(parse_perturbations("all")) == 3 * len(AXES)
    assert [str(p) for p in parse_perturbations("snatch")] == ["snatch:1", "snatch:2", "snatch:3"]
    assert [str(p) for p in parse_perturbations("latency:2")] == ["latency:2"]


def _sees(effect: Effect) -> float:
    """Standard deviation of what an effect does to an action that is zero, plus that to a grey image."""
    image, action = np.full((64, 64, 3), 128, dtype=np.uint8), np.zeros(7, dtype=np.float32)
    noisy = np.stack([effect.change_action(action) for _ in range(2000)])
    return float(noisy.std()) + float(effect.change_image(image).astype(float).std())


def test_levels_reach_the_effects(sim: Simulator) -> None:
    """The effects of an axis have its three sizes; where a size is a quantity of the model, the model has it."""
    for axis, about in AXES.items():
        sizes = [Perturbation(axis, level).effect(2_000_000).size for level in (1, 2, 3)]
        assert sizes == list(about.sizes)
        assert sizes == sorted(set(sizes))
    camera, cube = sim.model.camera(sim.config.camera), sim.model.body("cube_main")
    plain = (camera.pos.copy(), float(camera.fovy[0]), float(cube.mass[0]), float(sim.model.geom("cube_g0").size[0]))
    for level in (1, 2, 3):
        found = {}
        for axis in ("camera-position", "field-of-view", "cube-mass", "cube-size"):
            sim.perturbation = Perturbation(axis, level)
            sim.reset(2_000_000)
            found[axis] = {
                "camera-position": float(np.linalg.norm(camera.pos - plain[0])),
                "field-of-view": abs(float(camera.fovy[0]) - plain[1]),
                "cube-mass": float(np.exp(abs(np.log(cube.mass[0] / plain[2])))),
                "cube-size": abs(float(sim.model.geom("cube_g0").size[0]) / plain[3] - 1),
            }[axis]
        sim.perturbation = None
        sim.reset(2_000_000)
        assert found == pytest.approx({axis: AXES[axis].sizes[level - 1] for axis in found}, rel=1e-3)
    for axis in ("action-noise", "image-noise"):
        seen = [_sees(Perturbation(axis, level).effect(2_000_000)) for level in (1, 2, 3)]
        assert seen == pytest.approx(
            list(np.multiply(AXES[axis].sizes, np.sqrt(6 / 7) if "action" in axis else 1)), rel=0.1
        )


@pytest.mark.slow
def test_a_perturbed_evaluation_continues_where_it_stopped(tmp_path: Path) -> None:
    command = (ROOT / "5_evaluate.py", "--policy", "expert", "--num-episodes", "1", "--max-steps", "60")
    done = run_script(*command, "--perturb", "cube-mass:1", "--output-dir", "p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_script(*command, "--perturb", "cube-mass", "--output-dir", "p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "none: already measured" in done.stdout
    assert "cube-mass:1: already measured" in done.stdout
    cells = json.loads((tmp_path / "p/perturb.json").read_text())["cells"]
    assert list(cells) == ["none", "cube-mass:1", "cube-mass:2", "cube-mass:3"]
    assert all(cell["lifted"] == cell["episodes"] == 1 for cell in cells.values())
    assert all(cell["seed"] == [2_000_000] and cell["success"] == [True] for cell in cells.values())
    assert cells["none"]["declared"] == []
    assert cells["cube-mass:2"]["declared"] == ["body_inertia", "body_mass", "dof_M0"]
    assert not any(cell["judges_disagree"] for cell in cells.values())  # the replay is perturbed as the episode was
    assert "0, 0 (p = 1)" in (tmp_path / "p/perturb.md").read_text()
    assert (tmp_path / "p/perturb.png").stat().st_size > 5000
    done = run_script(*command, "--seed", "2000001", "--perturb", "cube-mass", "--output-dir", "p", cwd=tmp_path)
    assert_user_error(done, "perturb.json", "another run", "seeds")


GOOD = {
    "size": 1.5,
    "lifted": 1,
    "episodes": 2,
    "failed": {"lifted": 1},
    "seed": [5, 6],
    "success": [True, False],
    "failed_condition": [None, "lifted"],
    "invalid": [None, None],
    "declared": ["body_mass"],
    "judges_disagree": 0,
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no cells"),
        ('{"cells": []}', "no cells"),
        ('{"cells": ', "not JSON"),
        ('{"cells": {}, "seeds": [5, 6]}', "perturb_version is None there, 3 here"),
        ('{"perturb_version": 3, "seeds": [5, 6], "told": "x", "cells": {}}', "told is x there, None here"),
        ({"gravity:1": GOOD}, "'gravity:1' names none"),
        ({"cube-mass:4": GOOD}, "'cube-mass:4' names none"),
        ({"cube-mass:1": 3}, "holds int"),
        ({"cube-mass:1": {**GOOD, "size": 1.4}}, "size 1.4; now it is 1.5"),
        ({"cube-mass:1": {**GOOD, "seed": [5, 7]}}, "seeds"),
        ({"cube-mass:1": {**GOOD, "success": [True]}}, "each episode"),
        ({"cube-mass:1": {**GOOD, "lifted": 2}}, "2 lifted of 2, its episodes 1 of 2"),
        ({"cube-mass:1": {name: value for name, value in GOOD.items() if name != "lifted"}}, "None lifted of 2"),
        ({"cube-mass:1": {**GOOD, "failed": []}}, "by condition"),
        ({"cube-mass:1": {**GOOD, "declared": None}}, "what was declared"),
    ],
)
def test_a_perturbed_evaluation_refuses_what_is_not_its_own(content: str | dict, words: str, tmp_path: Path) -> None:
    path = tmp_path / "perturb.json"
    asked = {"seeds": (5, 6)}
    assert read_cells(path, asked) == {}
    write_cells(path, asked, {"cube-mass:1": GOOD})
    assert read_cells(path, asked) == {"cube-mass:1": GOOD}
    if isinstance(content, str):
        path.write_text(content)
    else:
        write_cells(path, asked, content)
    with pytest.raises(UserError, match="another --output-dir") as refused:
        read_cells(path, asked)
    assert words in str(refused.value)


def test_the_unperturbed_arm_is_paired_by_seed() -> None:
    assert paired(GOOD, {**GOOD, "success": [False, True]}) == (1, 1)
