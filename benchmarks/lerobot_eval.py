"""Compares `lerobot-eval` with `5_evaluate.py`, seed for seed, and measures what an exported dataset loses.

Both evaluate the shipped policy on the same test seeds, each with one computing thread. The total reward of an episode
sums what happened in all of its steps, so two episodes with the same one went the same way. Needs the environment of
`make lerobot`. Reads the checkpoint and the demonstrations. Writes the result file and prints the tables.

    python benchmarks/lerobot_eval.py --num-episodes 20
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import ROOT, run_stage

from vla.errors import UserError, run_script
from vla.evaluation.statistics import share
from vla.files import SHIPPED, write_text
from vla.markdown import markdown_table
from vla.sim.config import TEST_SEEDS

ENVIRONMENT = ROOT / "runs/lerobot/.venv/bin"
ROUNDING = 1e-9
"""Largest difference of two totals of the same rewards: they are summed in another order."""


@dataclass(frozen=True)
class LeRobotOptions:
    """Options of the comparison."""

    num_episodes: int = 20
    """Test episodes."""
    seed: int = TEST_SEEDS.start + 5000
    """Seed of the first episode; the next ones follow."""
    data: Path = Path("data/lift_demos.hdf5")
    """HDF5 file of demonstrations."""
    num_demos: int = 5
    """Demonstrations to export, the first ones."""
    work_dir: Path = Path("runs/lerobot")
    """Folder in which everything is made, in a temporary folder."""
    output: Path = Path("docs/results/lerobot.json")
    """Result file."""


def main(options: LeRobotOptions) -> None:
    if not (ENVIRONMENT / "lerobot-eval").exists():
        raise UserError("LeRobot's environment is not here; make it with: make lerobot")
    with tempfile.TemporaryDirectory(dir=options.work_dir) as name:
        folder = Path(name).resolve()
        _lerobot("python", "integrations/lerobot/convert.py", "--checkpoint", SHIPPED, "--output", folder / "policy")
        _lerobot(
            *("python", "integrations/lerobot/export.py", "--data", options.data.resolve()),
            *("--num-demos", options.num_demos, "--output", folder / "demos"),
        )
        _lerobot(
            *("lerobot-eval", f"--policy.path={folder / 'policy'}", "--env.type=lift_vla", "--eval.batch_size=1"),
            *(f"--eval.n_episodes={options.num_episodes}", f"--seed={options.seed}", f"--output_dir={folder / 'eval'}"),
        )
        run_stage(
            *("5_evaluate.py", "--checkpoint", SHIPPED, "--num-episodes", options.num_episodes, "--seed", options.seed),
            *("--workers", 1, "--no-videos", "--output-dir", folder / "ours"),
        )
        theirs = json.loads((folder / "eval/eval_info.json").read_text())["per_task"][0]["metrics"]
        ours = json.loads((folder / "ours/results.json").read_text())
        readback = json.loads((folder / "demos/readback.json").read_text())
    result = _joined(ours, theirs, readback)
    write_text(options.output, json.dumps(result, indent=1))
    print(f"{eval_table(result)}\n\n{readback_table(result)}")


def _joined(ours: dict[str, Any], theirs: dict[str, Any], readback: dict[str, Any]) -> dict[str, Any]:
    """The content of the result file, from `results.json`, the metrics of `eval_info.json` and `readback.json`."""
    rows = zip(ours["episodes"], theirs["successes"], theirs["sum_rewards"], strict=True)
    return {
        "lerobot": _version(),
        "episodes": [
            {key: episode[key] for key in ("seed", "steps", "success", "reward")}
            | {"lerobot_success": success, "lerobot_reward": reward}
            for episode, success, reward in rows
        ],
        "readback": readback,
        **{key: ours[key] for key in ("checkpoint_sha256", "versions", "machine", "thresholds")},
    }


def _lerobot(program: str, *arguments: object) -> None:
    """Run a program of LeRobot's environment from the project's folder, with one computing thread.

    Raises:
        UserError: it failed.
    """
    command = [str(ENVIRONMENT / program), *(str(argument) for argument in arguments)]
    print(f"$ {program} {' '.join(command[1:])}", flush=True)
    quiet = {"OMP_NUM_THREADS": "1", "SVT_LOG": "1"}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **quiet}, check=False)
    if done.returncode:
        raise UserError(f"{program} ended with {done.returncode}; mend what it says, and run this again")


def _version() -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('lerobot'))"
    done = subprocess.run([ENVIRONMENT / "python", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def eval_table(result: dict[str, Any]) -> str:
    """What both evaluations said of the same seeds, as Markdown."""
    episodes = result["episodes"]
    counts = {
        "`5_evaluate.py`: lifted, by the verdict": [each["success"] for each in episodes],
        "`lerobot-eval`: lifted": [each["lerobot_success"] for each in episodes],
        "seeds with the same success": [each["success"] == each["lerobot_success"] for each in episodes],
        "seeds with the same total reward": [_same_reward(each) for each in episodes],
    }
    rows = [(what, share(sum(each), len(each))) for what, each in counts.items()]
    seeds = f"{episodes[0]['seed']}-{episodes[-1]['seed']}"
    return markdown_table((f"seeds {seeds}", f"LeRobot {result['lerobot']}"), rows)


def _same_reward(episode: dict[str, Any]) -> bool:
    return abs(episode["reward"] - episode["lerobot_reward"]) < ROUNDING


def readback_table(result: dict[str, Any]) -> str:
    """What was exported beside what LeRobot's loader reads, as Markdown."""
    read = result["readback"]
    rows = [
        ("demonstrations, frames", f"{read['episodes']}, {read['frames']}"),
        ("state: largest difference", f"{read['state_max_difference']:g}"),
        ("action: largest difference", f"{read['action_max_difference']:g}"),
        ("picture: mean difference, in levels of 255", f"{read['image_mean_difference_levels']:.1f}"),
        ("picture: PSNR, on average", f"{read['image_psnr_db_mean']:.1f} dB"),
        ("picture: PSNR, the worst", f"{read['image_psnr_db_worst']:.1f} dB"),
    ]
    return markdown_table(("read back", "measured"), rows)


if __name__ == "__main__":
    run_script(main, LeRobotOptions, __doc__)
