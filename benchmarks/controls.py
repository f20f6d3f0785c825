"""What policies score that cannot lift, by the verdict and by the report's rule; and the expert, which can.

Each is evaluated exactly as a trained policy is, and judged again by the second judge. An evaluation that stands in
--work-dir is not run again. Reads the shipped checkpoint. Writes the table into docs/results.

    python benchmarks/controls.py
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage import run_stage

from vla.episodes import rejudge_file
from vla.errors import run_script
from vla.files import write_text
from vla.stats import markdown_table, rate

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
    """Result file; the table stands beside it, with the suffix .md."""


def main(options: ControlsOptions) -> None:
    results = {}
    for name, (what, arguments) in WHO.items():
        folder = options.work_dir / name
        if not (folder / "results.json").exists():
            if name == "untrained":
                _make_untrained(options.work_dir)
            run_stage(
                *("5_evaluate.py", "--num-episodes", options.num_episodes, "--no-videos", "--output-dir", folder),
                *(argument.format(work=options.work_dir) for argument in arguments),
            )
        results[name] = _summary(what, folder)
    write_text(options.output, json.dumps(results, indent=1))
    write_text(options.output.with_suffix(".md"), _table(results) + "\n")
    print(_table(results))


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
    rejudged = rejudge_file(folder / "episodes.hdf5")
    return {
        "what": what,
        "episodes": len(episodes),
        "seeds": [episodes[0]["seed"], episodes[-1]["seed"]],
        "lifted": sum(episode["success"] for episode in episodes),
        "reported": sum(episode["reported_success"] for episode in episodes),
        "invalid": sum(episode["invalid_reason"] is not None for episode in episodes),
        "judges_agree": sum(episode.verdict == episode.second_opinion for episode in rejudged),
        "versions": content["versions"],
    }


def _table(results: dict[str, Any]) -> str:
    rows = [
        (
            result["what"],
            rate(result["reported"], result["episodes"]),
            rate(result["lifted"], result["episodes"]),
            str(result["invalid"]),
            f"{result['judges_agree']}/{result['episodes']}",
        )
        for result in results.values()
    ]
    return markdown_table(("who acts", "report's rule", "truly lifted", "invalid", "judges agree"), rows)


if __name__ == "__main__":
    run_script(main, ControlsOptions, __doc__, "run the same command again; it continues with the missing ones")
