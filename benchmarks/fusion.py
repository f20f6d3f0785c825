"""Where the instruction enters the network, and what the auxiliary heads locate: which of them makes a policy obey.

Every arm is trained on the same demonstrations of the scene "cubes", equally long, with the same seeds, and told both
colours of two cubes from the same state. The training is short on purpose, and the episodes have validation seeds,
because the recipe is chosen by this table. Obedience is scored apart from precision: the cube that was touched first,
the wrong cubes that were lifted, and both instructions right from one state.

Reads the demonstrations and the stills. Writes checkpoints and evaluations into --work-dir, and
the result file into docs/results, from which `benchmarks/tables.py` makes the table in docs/language.md. What is
finished is not repeated, and what was stopped goes on.

    python benchmarks/fusion.py --arms report both film film-both clip deaf --seeds 0 1
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts import run_stage
from trainings import check_comparable, language_settings, recipe, train, trained_with

from vla.demos.stills import COLLECT_STILLS
from vla.errors import UserError, run_script
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.files import sha256, write_text
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table

FUSION_VERSION = 1
PART = "two-cubes"
"""Part of the language suite that scores the arms."""
MAX_STEPS = 120
"""Control steps of an episode; an expert needs 50."""


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    what: str
    train: tuple[str, ...]
    """Arguments of 4_train.py that tell it from the recipe `language`."""


ARMS = {
    "report": Arm(
        "the report's: one attention to the sentence; the auxiliary head locates the target",
        ("--language-in-vision", "none", "--locates", "target"),
    ),
    "every": Arm("one attention to the sentence; every cube", ("--language-in-vision", "none", "--locates", "every")),
    "named": Arm(
        "one attention to the sentence; the named cube, behind the fusion",
        ("--language-in-vision", "none", "--locates", "named"),
    ),
    "both": Arm("one attention to the sentence; both heads", ("--language-in-vision", "none", "--locates", "both")),
    "film": Arm("FiLM in ResNet18; the target", ("--language-in-vision", "film", "--locates", "target")),
    "film-every": Arm("FiLM; every cube", ("--language-in-vision", "film", "--locates", "every")),
    "film-both": Arm("FiLM; both heads: the recipe", ("--language-in-vision", "film", "--locates", "both")),
    "attention-every": Arm(
        "attention to the picture's places; every cube", ("--language-in-vision", "attention", "--locates", "every")
    ),
    "attention-both": Arm(
        "attention to the picture's places; both heads", ("--language-in-vision", "attention", "--locates", "both")
    ),
    "clip": Arm("the recipe with CLIP's text tower, untrained", ("--text-encoder", "clip", "--clip-weights", "none")),
    "deaf": Arm("the recipe, but every sentence sounds the same", ("--text-encoder", "deaf")),
}


@dataclass(frozen=True)
class FusionOptions:
    """Options of the benchmark."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Arms to run, in this order, each with all seeds."""
    seeds: tuple[int, ...] = (0, 1)
    """Training seeds."""
    steps: int = 2000
    """Training steps of each arm, an even number; two whole passes over the data at most."""
    num_scenes: int = 30
    """Scenes, each with an episode for either cube."""
    train_only: bool = False
    """Train what is asked for and evaluate nothing; the same command without this option evaluates it."""
    data: Path = Path("data/cubes_demos.hdf5")
    """HDF5 file of demonstrations, as `make demo-language` collects them."""
    stills: Path = Path("data/cubes_stills.hdf5")
    """HDF5 file of stills, likewise."""
    work_dir: Path = Path("runs/fusion")
    """Folder of checkpoints and evaluations."""
    output: Path = Path("docs/results/fusion.json")
    """Result file."""

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown:
            raise UserError(f"--arms {' '.join(sorted(unknown))}: unknown; choose from {' '.join(ARMS)}")
        if self.num_scenes < 2:
            raise UserError(f"--num-scenes must be at least 2, got {self.num_scenes}")

    def begun(self) -> dict[str, Any]:
        """A result file without trainings; `settings` is what all trainings in one file must share."""
        return {
            "fusion_version": FUSION_VERSION,
            "results_version": RESULTS_VERSION,
            "settings": {
                "steps": self.steps,
                "num_scenes": self.num_scenes,
                "max_steps": MAX_STEPS,
                "recipe": recipe("language"),
                "language": language_settings("language"),
                "versions": run_versions(),
                "thresholds": dataclasses.asdict(Thresholds()),
            },
            "arms": {},
        }


def main(options: FusionOptions) -> None:
    results = options.begun()
    if options.output.exists() and not options.train_only:
        results = check_comparable(options.output, results)
    for name in options.arms:
        for seed in options.seeds:
            arm = results["arms"].setdefault(name, {"what": ARMS[name].what, "trainings": {}})
            if str(seed) in arm["trainings"]:
                print(f"{name}, training seed {seed}: already measured")
                continue
            folder = options.work_dir / f"{name}-{seed}"
            request = {"arm": dataclasses.asdict(ARMS[name]), "seed": seed, "steps": options.steps}
            train(folder, request, partial(_arguments, name, seed, options), "language")
            if not options.train_only:
                arm["trainings"][str(seed)] = _measure(folder, options)
                write_text(options.output, json.dumps(results, indent=1))
    if not options.train_only:
        print(fusion_table(results))


def _arguments(name: str, seed: int, options: FusionOptions) -> tuple[object, ...]:
    for path in (options.data, options.stills):
        if not path.exists():
            raise UserError(f"no {path}; collect it with: {COLLECT_STILLS}")
    length = ("--epochs", 2, "--max-steps", options.steps // 2, "--rollout-episodes", 0)
    data = ("--data", options.data, "--stills", options.stills, "--proprioception")
    return *data, "--seed", seed, *length, *ARMS[name].train


def _measure(folder: Path, options: FusionOptions) -> dict[str, Any]:
    run_stage(
        *("5_evaluate.py", "--checkpoint", folder / "last.pth", "--language-suite", "--parts", PART),
        *("--split", "validation", "--num-episodes", options.num_scenes, "--no-videos"),
        *("--max-steps", MAX_STEPS, "--output-dir", folder / "evaluation"),
    )
    content = json.loads((folder / "evaluation/language.json").read_text())
    last = json.loads((folder / "history.json").read_text())[-1]
    assert last["step"] == options.steps, "an epoch has fewer batches than half of --steps"
    return {
        "measures": content["parts"][PART]["measures"],
        "steps": last["step"],
        "first_motion": last["valid/first_motion"],
        "checkpoint_sha256": sha256(folder / "last.pth"),
        **trained_with(folder / "last.pth"),
        "weights": content["weights"],
        "machine": content["machine"],
    }


def fusion_table(results: dict[str, Any]) -> str:
    """Each arm's obedience and lifts, all trainings together, and the trainings apart."""
    rows = []
    for name in ARMS:
        trainings = [each for _, each in sorted(results["arms"].get(name, {"trainings": {}})["trainings"].items())]
        if not trainings:
            continue
        both = [each["measures"]["right"]["all_of_seed"] for each in trainings]
        rows.append(
            (
                ARMS[name].what,
                *(_share(trainings, measure) for measure in ("named_first", "right", "wrong_object")),
                f"{sum(each['count'] for each in both)}/{sum(each['of'] for each in both)}",
                ", ".join(str(each["count"]) for each in both),
                f"{sum(each['first_motion'] for each in trainings) / len(trainings):.3f}",
            )
        )
    head = ("network", "named cube touched first", "right", "another cube lifted", "every instruction right")
    return markdown_table((*head, "of each training", "first action's MSE"), rows)


def _share(trainings: list[dict[str, Any]], measure: str) -> str:
    episodes = [training["measures"][measure]["episodes"] for training in trainings]
    return f"{sum(each['count'] for each in episodes)}/{sum(each['of'] for each in episodes)}"


if __name__ == "__main__":
    run_script(main, FusionOptions, __doc__, "run the same command again; it continues with the missing trainings")
