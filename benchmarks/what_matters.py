"""What matters: the `cpu` recipe with one thing changed at a time, each arm trained equally long, on the same seeds.

The training is short on purpose: a reference that lifts everything could not be improved, and the arms must fit into an
evening on two cores. The seeds are validation seeds, because a recipe may be chosen by this table. A further training
seed repeats an arm with other initial weights and another order, on the same demonstrations: what differs between two
seeds is chance. Errors marked with * are on demonstrations of another kind and cannot be compared with the others.

Reads nothing. Writes the data and checkpoints of every arm into --work-dir, and the result file into docs/results, from
which `benchmarks/tables.py` makes the table in docs/results.md. A training that the result file holds is not run again,
so the benchmark can be stopped, continued and extended.

    python benchmarks/what_matters.py --arms reference no-recovery --seeds 0 1
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import binomtest, fisher_exact
from scripts import run_stage

from vla.demos.schema import demo_names, open_demos
from vla.errors import UserError, run_script
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import rate
from vla.files import sha256, write_text
from vla.judging.verdict import Thresholds
from vla.markdown import markdown_table


@dataclass(frozen=True)
class Arm:
    """One row of the table: what differs from the reference."""

    what: str
    demos: int = 150
    """Demonstrations, of which a tenth is kept back for validation."""
    collect: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    batch: int = 32
    """Windows in a batch."""
    step_cost: float = 1.0
    """Time of a training step, divided by the reference's; the arm has so many times fewer steps."""
    dagger: str = ""
    """Arm whose policy acts in the last third of the demonstrations (`1_collect_demos.py --dagger`)."""


REFERENCE = "reference"
REPORT = (
    "--pooling",
    "average",
    "--set",
    "observation_horizon=10",
    "windows_per_segment=8",
    "batch_windows=48",
    "gripper_loss=mse",
    "gripper_weight=0.1667",
    "auxiliary_weight=0",
    "chunk_discount=1",
    "history_dropout=0",
)
NO_NOISE = ("--noise-std", "0", "--recovery-fraction", "0")
ARMS = {
    REFERENCE: Arm("reference: the `cpu` recipe on 150 demonstrations"),
    "demos-200": Arm("200 demonstrations", 200),
    "demos-100": Arm("100 demonstrations", 100),
    "demos-50": Arm("50 demonstrations", 50),
    "demos-25": Arm("25 demonstrations", 25),
    "demos-10": Arm("10 demonstrations", 10),
    "no-recovery": Arm("noise, but no detours and slips", collect=("--recovery-fraction", "0")),
    "no-noise": Arm("neither noise nor detours and slips", collect=NO_NOISE),
    "dagger": Arm("100 demonstrations, then 50 in which the policy learned from them acts first", dagger="demos-100"),
    "no-auxiliary": Arm("no auxiliary loss", train=("--set", "auxiliary_weight=0")),
    "equal-chunk": Arm("all actions of a chunk weigh the same", train=("--set", "chunk_discount=1")),
    "gripper-mse": Arm("MSE for the gripper", train=("--set", "gripper_loss=mse", "gripper_weight=0.1667")),
    "average-pooling": Arm("average pooling", train=("--pooling", "average")),
    "proprioception": Arm("the arm's own state beside the picture", train=("--proprioception",)),
    "history": Arm(
        "ten frames (half of the windows: the present one only)",
        train=("--set", "observation_horizon=10", "windows_per_segment=8", "batch_windows=48", "history_dropout=0.5"),
        batch=48,
        step_cost=2.8,
    ),
    "report": Arm(
        "the report's choices: 50 clean demonstrations, MSE, average pooling, ten frames",
        50,
        NO_NOISE,
        REPORT,
        48,
        step_cost=2.8,
    ),
}


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of the benchmark."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Arms to run, in this order."""
    seeds: tuple[int, ...] = (0,)
    """Training seeds: all arms with the first, then all with the next."""
    steps: int = 900
    """Training steps of the reference, less than half of the whole recipe. An arm with slower steps has fewer."""
    num_episodes: int = 50
    """Validation episodes of each training."""
    max_steps: int = 100
    """Control steps of an episode; an expert needs 45."""
    work_dir: Path = Path("runs/what_matters")
    """Folder of demonstrations and checkpoints."""
    output: Path = field(default_factory=lambda: Path("docs/results/what_matters.json"))
    """Result file."""

    def __post_init__(self) -> None:
        unknown = set(self.arms) - set(ARMS)
        if unknown:
            raise UserError(f"--arms {' '.join(sorted(unknown))}: unknown; choose from {' '.join(ARMS)}")

    def settings(self) -> dict[str, Any]:
        """Settings that all arms in one result file must share."""
        numbers = {name: getattr(self, name) for name in ("steps", "num_episodes", "max_steps")}
        return {**numbers, "versions": run_versions(), "thresholds": dataclasses.asdict(Thresholds())}


def main(options: BenchmarkOptions) -> None:
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    asked = options.settings()
    for name, result in results.items():
        for what, value in asked.items():
            if result["settings"].get(what) != value:
                raise UserError(
                    f"{options.output}: {name} was measured with other {what} ({result['settings'].get(what)}, now "
                    f"{value}), and is not to be compared; give another --output"
                )
    for seed in options.seeds:
        for name in options.arms:
            arm = ARMS[name]
            result = results.get(name, {"what": arm.what, "settings": asked, "trainings": {}})
            if str(seed) in result["trainings"]:
                print(f"{name}, training seed {seed}: already measured")
                continue
            result["trainings"][str(seed)] = _measure(name, arm, seed, options)
            results[name] = result
            write_text(options.output, json.dumps(results, indent=1))
    print(arms_table(results))


def _measure(name: str, arm: Arm, seed: int, options: BenchmarkOptions) -> dict[str, Any]:
    folder = _folder(name, seed, options)
    data = _demonstrations(arm, seed, options)
    demos = round(0.9 * arm.demos)
    steps = round(options.steps / arm.step_cost)
    epochs = math.ceil(steps / _steps_per_epoch(data, demos, arm.batch))
    per_epoch = math.ceil(steps / epochs)
    run_stage(
        *("4_train.py", "--recipe", "cpu", "--data", data, "--num-demos", demos, "--epochs", epochs),
        *("--max-steps", per_epoch, "--rollout-episodes", "0", "--overwrite", "--seed", seed),
        *("--vision-weights", "none", "--clip-weights", "none"),  # whether there is a network or not
        *("--output-dir", folder, "--log-dir", folder / "log", *arm.train),
    )
    run_stage(
        *("5_evaluate.py", "--checkpoint", folder / "last.pth", "--num-episodes", options.num_episodes),
        *("--split", "validation", "--max-steps", options.max_steps, "--no-videos"),
        *("--output-dir", folder / "evaluation"),
    )
    evaluation = json.loads((folder / "evaluation/results.json").read_text())
    return {
        "demos": arm.demos,
        "steps": epochs * per_epoch,
        "lifted": sum(episode["success"] for episode in evaluation["episodes"]),
        "episodes": len(evaluation["episodes"]),
        "grasped": sum(episode["grasped"] for episode in evaluation["episodes"]),
        "closures": sum(episode["gripper_closures"] for episode in evaluation["episodes"]),
        "drops": sum(episode["drops"] for episode in evaluation["episodes"]),
        **_offline(folder, arm),
        "reported_success_rate": evaluation["reported_success_rate"],
        "weights": evaluation["weights"],
        "seeds": [episode["seed"] for episode in evaluation["episodes"]],
    }


def _folder(name: str, seed: int, options: BenchmarkOptions) -> Path:
    return options.work_dir / f"{name}-{seed}"


def _offline(folder: Path, arm: Arm) -> dict[str, Any]:
    """Errors of the first action on validation demonstrations, which vary less than the lifts of 50 episodes."""
    last = json.loads((folder / "history.json").read_text())[-1]
    return {
        "position_error_cm": last["valid/position_error_cm"],
        "first_motion": last["valid/first_motion"],
        "first_gripper_accuracy": last["valid/first_gripper_accuracy"],
        "own_validation": bool(arm.collect or arm.dagger),
    }


def _demonstrations(arm: Arm, seed: int, options: BenchmarkOptions) -> Path:
    """The file of demonstrations of an arm; arms with the same collection options share one."""
    collect = ("1_collect_demos.py", "--video-episodes")
    if arm.dagger:
        policy = _folder(arm.dagger, seed, options) / "last.pth"
        if not policy.exists():
            raise UserError(f"this arm needs the policy {policy}; run the arm {arm.dagger} first, on this machine")
        data = options.work_dir / f"dagger-{sha256(policy)[:8]}.hdf5"  # another policy's episodes are not to be reused
        first = ARMS[arm.dagger].demos
        run_stage(*collect, "--output", data, "--num-episodes", first)
        run_stage(*collect, "--output", data, "--num-episodes", arm.demos - first, "--dagger", policy)
        return data
    data = options.work_dir / f"{'-'.join(arm.collect).strip('-') or 'standard'}.hdf5"
    run_stage(*collect, "--output", data, "--num-episodes", 150 if arm.collect else 200, *arm.collect)
    return data


def _steps_per_epoch(data: Path, demos: int, batch: int) -> int:
    with open_demos(data) as file:
        names = demo_names(file, "train")[:demos]
        windows = sum(int(file["data"][name].attrs["episode_length"]) for name in names)
    return math.ceil(windows / batch)


def total(result: dict[str, Any], key: str) -> Any:
    """The sum of a number over an arm's trainings."""
    return sum(training[key] for training in result["trainings"].values())


def lifted(result: dict[str, Any]) -> str:
    """The rate of an arm, over all its trainings."""
    return rate(total(result, "lifted"), total(result, "episodes"))


def p_values(results: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Of each arm against the reference: Fisher's exact two-sided p, and the same corrected for all these comparisons.

    The correction is Holm's. Both treat episodes as independent and know nothing of what another training seed changes,
    so a small p says less than it seems to, and a large one no less.
    """

    def fisher(result: dict[str, Any]) -> float:
        counts = [(total(each, "lifted"), total(each, "episodes")) for each in (results[REFERENCE], result)]
        return float(fisher_exact([[won, of - won] for won, of in counts]).pvalue)

    single = {name: fisher(result) for name, result in results.items() if name != REFERENCE}
    corrected: dict[str, tuple[float, float]] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(single.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, p * (len(single) - rank)))
        corrected[name] = p, largest
    return corrected


def difference(results: dict[str, Any], name: str) -> str:
    """Lifts of an arm less the reference's, in points, with Newcombe's 95% interval: '-15 [-30, -1]'.

    Newcombe 1998, method 10, which combines the two Wilson intervals; the bounds are rounded outwards.
    """
    rates, below, above = [], [], []
    for result in (results[name], results[REFERENCE]):
        counts = total(result, "lifted"), total(result, "episodes")
        interval = binomtest(*counts).proportion_ci(method="wilson")
        share = counts[0] / counts[1]
        rates.append(share)
        below.append(share - interval.low)
        above.append(interval.high - share)
    points = 100 * (rates[0] - rates[1])
    low = math.floor(points - 100 * math.hypot(below[0], above[1]))
    high = math.ceil(points + 100 * math.hypot(above[0], below[1]))
    return f"{points:+.0f} [{low:+d}, {high:+d}]"


def shown(results: dict[str, Any]) -> str:
    """Which arms differ from the reference by the corrected p at 0.05, as a Markdown list."""
    base = total(results[REFERENCE], "lifted") / total(results[REFERENCE], "episodes")
    unknown = "not distinguishable from the reference"
    groups: dict[str, list[str]] = {"worse": [], "better": [], unknown: []}
    for name, (_, corrected) in p_values(results).items():
        result = results[name]
        above = total(result, "lifted") / total(result, "episodes") > base
        group = unknown if corrected >= 0.05 else "better" if above else "worse"
        groups[group].append(f"{result['what']} ({total(result, 'lifted')}/{total(result, 'episodes')})")
    return "\n".join(f"- **{group}**: {'; '.join(arms)}" for group, arms in groups.items() if arms)


def arms_table(results: dict[str, Any]) -> str:
    """Each training's lifts, all of an arm's together with exact 95% intervals, `difference` and `p_values`."""
    rows = []
    p = p_values(results)
    for name, result in sorted(results.items(), key=lambda item: list(ARMS).index(item[0])):
        trainings = [training for _, training in sorted(result["trainings"].items())]
        count = len(trainings)
        single, corrected = p.get(name, (None, None))
        rows.append(
            (
                result["what"],
                str(trainings[0]["steps"]),
                f"{total(result, 'first_motion') / count:.3f}{' *' if trainings[0]['own_validation'] else ''}",
                f"{total(result, 'first_gripper_accuracy') / count:.1%}",
                f"{total(result, 'grasped')}/{total(result, 'episodes')}",
                ", ".join(str(training["lifted"]) for training in trainings),
                lifted(result),
                "" if single is None else difference(results, name),
                "" if single is None else f"{single:.2g}",
                "" if corrected is None else f"{corrected:.2g}",
            )
        )
    head = ("what was changed", "steps", "first action's MSE", "gripper right", "grasped", "lifted, each training")
    return markdown_table((*head, "truly lifted", "points against the reference", "p", "p, corrected"), rows)


if __name__ == "__main__":
    run_script(main, BenchmarkOptions, __doc__, "run the same command again; it continues with the missing arms")
