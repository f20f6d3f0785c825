"""Evaluates policies that cannot lift, and the expert, which can, by the verdict and by the report's rule.

Each is evaluated exactly as a trained policy is, by both judges. An evaluation in --work-dir is
not run again if it has as many episodes, the same checkpoint and the same versions. Reads the shipped checkpoint.
Writes the result file into docs/results, from which `benchmarks/tables.py` makes the table in docs/results.md.

    python benchmarks/controls.py
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import ROOT, run_stage

from vla.errors import run_script
from vla.evaluation.results_json import RESULTS_VERSION, run_versions
from vla.evaluation.statistics import rate
from vla.files import sha256, write_text
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table

CONTROLS_VERSION = 2

SHIPPED = "checkpoints/lift.pth"
WHO = {
    "zero": ("no motion", ("--policy", "zero")),
    "random": ("uniform noise", ("--policy", "random")),
    "always-close": ("a closing gripper", ("--policy", "always-close")),
    "nan": ("actions that are not numbers", ("--policy", "nan")),
    "untrained": ("the policy after one step of training", ("--checkpoint", "{work}/untrained.pth")),
    "blind": ("the shipped policy on black pictures", ("--checkpoint", SHIPPED, "--blind")),
    "expert": ("the scripted expert", ("--policy", "expert")),
}


@dataclass(frozen=True)
class ControlsOptions:
    """Options of the controls."""

    num_episodes: int = 50
    """Test episodes of each."""
    work_dir: Path = Path("runs/controls")
    """Folder of the evaluations."""
    output: Path = Path("docs/results/controls.json")
    """Result file."""


def main(options: ControlsOptions) -> None:
    results = {}
    for name, (what, arguments) in WHO.items():
        folder = options.work_dir / name
        arguments = tuple(argument.format(work=options.work_dir) for argument in arguments)
        if name == "untrained" and not (options.work_dir / "untrained.pth").exists():
            _make_untrained(options.work_dir)
        if not stands(folder / "results.json", arguments, options.num_episodes):
            run_stage(
                *("5_evaluate.py", "--num-episodes", options.num_episodes, "--no-videos", "--output-dir", folder),
                *arguments,
            )
        results[name] = _summary(what, folder)
    content = {"controls_version": CONTROLS_VERSION, "who": results}
    write_text(options.output, json.dumps(content, indent=1))
    print(controls_table(content))


def stands(path: Path, arguments: tuple[str, ...], episodes: int) -> bool:
    """Whether `path` holds the result that an evaluation with these arguments would give here and now."""
    try:
        content = json.loads(path.read_text())
        checkpoint = arguments[arguments.index("--checkpoint") + 1] if "--checkpoint" in arguments else None
        return bool(
            content["results_version"] == RESULTS_VERSION
            and len(content["episodes"]) == episodes
            and content["versions"] == run_versions()
            and content["thresholds"] == dataclasses.asdict(Thresholds())
            and content.get("checkpoint_sha256") == (checkpoint and sha256(ROOT / checkpoint))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make_untrained(work_dir: Path) -> None:
    data, folder = work_dir / "demos.hdf5", work_dir / "training"
    run_stage("1_collect_demos.py", "--num-episodes", 2, "--output", data, "--video-episodes")
    run_stage(
        *("4_train.py", "--recipe", "cpu", "--data", data, "--epochs", 1, "--max-steps", 1, "--rollout-episodes", 0),
        *("--learning-rate", "1e-6", "--output-dir", folder, "--log-dir", folder / "log", "--overwrite"),
    )
    (folder / "last.pth").replace(work_dir / "untrained.pth")


def _summary(what: str, folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "results.json").read_text())
    episodes = content["episodes"]
    return {
        "what": what,
        "episodes": len(episodes),
        "seeds": [episodes[0]["seed"], episodes[-1]["seed"]],
        "lifted": sum(episode["success"] for episode in episodes),
        "reported": sum(episode["reported_success"] for episode in episodes),
        "invalid": sum(episode["invalid_reason"] is not None for episode in episodes),
        "judges_agree": sum(episode["judges_agree"] for episode in episodes),
        "checkpoint_sha256": content.get("checkpoint_sha256"),
        "versions": content["versions"],
        "thresholds": content["thresholds"],
    }


def controls_table(content: dict[str, Any]) -> str:
    """Success by both rules with exact 95% intervals, as Markdown."""
    rows = [
        (
            result["what"],
            rate(result["reported"], result["episodes"]),
            rate(result["lifted"], result["episodes"]),
            str(result["invalid"]),
            f"{result['judges_agree']}/{result['episodes']}",
        )
        for result in content["who"].values()
    ]
    return markdown_table(("who acts", "report's rule", "truly lifted", "invalid", "judges agree"), rows)


if __name__ == "__main__":
    run_script(main, ControlsOptions, __doc__, "run the same command again; it continues with the missing ones")
