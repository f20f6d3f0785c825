"""Runs every attack on many starts, and honest lifts beside them.

Writes docs/results/attacks.json, from which `benchmarks/tables.py` makes the tables in docs/verdict.md.

python -m tests.attacks --seeds 50 --honest 500
python -m tests.attacks --only sinking-table half-gravity --seeds 50
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.attacks.attacks import ATTACKS
from tests.attacks.director import ALL_CONDITIONS
from tests.attacks.suite import DRIFT, HONEST, QUANTITIES, AttackResult, AttackTask, run_in_worker
from vla.errors import UserError, run_script
from vla.evaluation.statistics import rate
from vla.files import write_text
from vla.judging.push_test import MAX_PUSH_M
from vla.judging.thresholds import Thresholds
from vla.markdown import markdown_table
from vla.shards import Shard
from vla.sim.config import EnvConfig, installed_versions
from vla.sim.engines import Engine, default_workers, simulator_workers
from vla.sim.workers import SimulatorWorkers

DROPPED_MM = 50.0
"""A cube that a push moves by more than its own size has left the grip."""


@dataclass(frozen=True)
class SuiteOptions:
    """Options of the attack suite."""

    seeds: int = 50
    """Number of starts of each attack."""
    only: tuple[str, ...] = ()
    """Attacks to try; the result file keeps what it says of the others and of the honest lifts. None given: all."""
    honest: int = 500
    """Number of honest lifts, of cubes of other size, mass and friction, on moved tables."""
    workers: int = field(default_factory=default_workers)
    """Simulator processes."""
    engine: Engine = "local"
    """Where they run: on this machine, or as tasks of a Ray cluster, which --workers does not limit (docs/scale.md)."""
    shard: str | None = None
    """Run only a part of the episodes, such as 3/16, in each of several jobs with one shared --output; then the same
    command without it writes the results (docs/scale.md)."""
    output: Path = Path("docs/results/attacks.json")
    """Result file."""
    videos_dir: Path | None = Path("videos/attacks")
    """Folder for a video of each attack from its first start; None: no videos."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.honest < 1 or self.workers < 1:
            raise UserError("--seeds, --honest and --workers must be at least 1")
        if self.shard is not None:
            Shard.parse(self.shard)
            if self.only:
                raise UserError("--shard divides the whole suite; leave --only out")
        unknown = [name for name in self.only if name not in ATTACKS]
        if unknown:
            raise UserError(f"--only {' '.join(unknown)}: the attacks are {', '.join(ATTACKS)}")

    def facts(self) -> dict[str, Any]:
        """What all attacks of a result file share, as JSON types."""
        return {"versions": installed_versions(), "thresholds": dataclasses.asdict(Thresholds())}


def main(options: SuiteOptions) -> None:
    kept = _kept(options) if options.only else {}
    runs = [AttackTask(name, seed) for name in options.only or ATTACKS for seed in range(options.seeds)]
    runs += [] if options.only else [AttackTask(HONEST, seed) for seed in range(options.honest)]
    results = run_attacks(options, runs)
    if options.shard is not None:
        print(Shard.parse(options.shard).farewell("writes the results"))
        return
    content = (summarise_some(results, kept) if options.only else summarise(results)) | options.facts()
    write_text(options.output, json.dumps(content, indent=1))
    for path in () if options.only else _shard_files(options.output):
        path.unlink()
    print(tables(content))
    if options.videos_dir is not None:
        _film(options.videos_dir)
    print(f"\nresults: {options.output}")


def run_attacks(options: SuiteOptions, tasks: Sequence[AttackTask]) -> list[AttackResult]:
    """The results of all tasks, or of the shard's, which are written to a file; what shards have run is not repeated.

    Raises:
        UserError: a shard ran with another simulator or other thresholds.
    """
    known: dict[tuple[str, int], AttackResult] = {}
    shard = None if options.shard is None else Shard.parse(options.shard)
    for path in _shard_files(options.output) if shard is None else ():
        content = json.loads(path.read_text())
        if content["facts"] != json.loads(json.dumps(options.facts())):
            raise UserError(f"{path} was run with other versions or thresholds; move it away, and run that shard again")
        known |= {(name, seed): AttackResult(**result) for name, seed, result in content["results"]}
    asked = tasks if shard is None else shard.part(tasks)
    missing = [task for task in asked if (task.name, task.seed) not in known]
    if missing:
        workers = simulator_workers(options.engine, options.workers, EnvConfig(), render_images=False)
        with tqdm(total=len(asked), initial=len(asked) - len(missing), unit="episode", desc="attack") as bar, workers:
            results = workers.run_all(run_in_worker, missing, lambda _: bar.update())
        known |= {(task.name, task.seed): result for task, result in zip(missing, results, strict=True)}
    if shard is not None:
        path = options.output.with_suffix(f".shard-{shard.number}-of-{shard.count}.json")
        rows = [(*key, dataclasses.asdict(result)) for key, result in known.items()]
        write_text(path, json.dumps({"facts": options.facts(), "results": rows}))
    return [known[task.name, task.seed] for task in asked]


def _shard_files(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f"{output.stem}.shard-*.json"))


def _kept(options: SuiteOptions) -> dict[str, Any]:
    """The content of the result file, whose other attacks are kept.

    Raises:
        UserError: there is none, or it was measured with another simulator or other thresholds.
    """
    if not options.output.exists():
        raise UserError(f"--only adds to {options.output}, which is not there; run all attacks first, without --only")
    content: dict[str, Any] = json.loads(options.output.read_text())
    if any(content.get(name) != value for name, value in options.facts().items()):
        raise UserError(f"{options.output} was measured with other versions or thresholds; run all attacks again")
    return content


def _film(folder: Path) -> None:
    tasks = [AttackTask(name, 0, folder / f"{name}.mp4") for name in (*ATTACKS, HONEST)]
    with tqdm(total=len(tasks), unit="video", desc="film") as bar, SimulatorWorkers(1, EnvConfig()) as workers:
        workers.run_all(run_in_worker, tasks, lambda _: bar.update())
    print(f"videos: {folder}/{HONEST}.mp4 and one of each attack")


def summarise(results: Sequence[AttackResult]) -> dict[str, Any]:
    """Count what each judge accepted, per attack and of the honest lifts; list rejected lifts and disagreements."""
    honest = [result for result in results if result.name == HONEST]
    return {
        "attacks": {name: _attack_counts(name, results) for name in ATTACKS},
        "honest": {
            "runs": len(honest),
            "accepted": sum(run.accepted for run in honest),
            "accepted_by_second_judge": sum(run.accepted_by_second_judge for run in honest),
            "rejected": [dataclasses.asdict(run) for run in honest if not run.accepted],
            "hold": _hold_table(honest),
            **_pushes(honest),
        },
        "episodes": len(results),
        "disagreements": _disagreements(results),
    }


def summarise_some(results: Sequence[AttackResult], kept: dict[str, Any]) -> dict[str, Any]:
    """The content of a result file in which the attacks of `results` take the places of the older ones."""
    tried = {result.name for result in results}
    attacks = {name: _attack_counts(name, results) if name in tried else kept["attacks"][name] for name in ATTACKS}
    others = [run for run in kept["disagreements"] if run["name"] not in tried]
    return {
        **kept,
        "attacks": attacks,
        "episodes": sum(attack["runs"] for attack in attacks.values()) + kept["honest"]["runs"],
        "disagreements": others + _disagreements(results),
    }


def _attack_counts(name: str, results: Sequence[AttackResult]) -> dict[str, Any]:
    runs = [result for result in results if result.name == name]
    return {
        "what": ATTACKS[name].what,
        "only": ATTACKS[name].only,
        "runs": len(runs),
        "accepted": sum(run.accepted for run in runs),
        "accepted_by_second_judge": sum(run.accepted_by_second_judge for run in runs),
        "accepted_by_robosuite": sum(run.accepted_by_robosuite for run in runs),
        "accepted_by_report": sum(run.accepted_by_report for run in runs),
        "accepted_without": Counter(missing for run in runs for missing in run.accepted_without),
    }


def _disagreements(results: Sequence[AttackResult]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(run) for run in results if run.accepted != run.accepted_by_second_judge]


def _hold_table(honest: Sequence[AttackResult]) -> list[dict[str, Any]]:
    """Minimum and maximum of each quantity over the holds of all honest lifts."""
    holds = [run.hold for run in honest if run.hold is not None]
    rows = [(quantity.condition, quantity.what, quantity.unit, quantity.accepted) for quantity in QUANTITIES]
    return [
        {
            "condition": condition,
            "what": what,
            "unit": unit,
            "accepted": accepted,
            "least": min(hold[what][0] for hold in holds),
            "most": max(hold[what][1] for hold in holds),
        }
        for condition, what, unit, accepted in (*rows, DRIFT)
        if holds
    ]


def _pushes(honest: Sequence[AttackResult]) -> dict[str, Any]:
    """Results of the push test after the honest lifts, with the cubes that moved further than it allows."""
    far = [
        {"seed": run.seed, "push_mm": 1e3 * run.push_m, **(run.cube or {})}
        for run in honest
        if run.push_m is not None and run.push_m > MAX_PUSH_M
    ]
    far.sort(key=lambda push: -push["push_mm"])
    return {
        "largest_push_mm": 1e3 * max((run.push_m for run in honest if run.push_m is not None), default=0.0),
        "pushed_too_far": len(far),
        "dropped": sum(push["push_mm"] > DROPPED_MM for push in far),
        "pushed_far": far,
    }


def _push_table(far: Sequence[dict[str, float]]) -> str:
    """Table of the cubes that moved too far: those that stayed in the grip, and those that were dropped."""
    groups = {
        f"by {1e3 * MAX_PUSH_M:.0f}-{DROPPED_MM:.0f} mm": [push for push in far if push["push_mm"] <= DROPPED_MM],
        "and were dropped": [push for push in far if push["push_mm"] > DROPPED_MM],
    }
    rows = [
        (name, str(len(pushes)), *(_factors([push[key] for push in pushes]) for key in ("size", "mass", "friction")))
        for name, pushes in groups.items()
        if pushes
    ]
    return markdown_table(("cubes that gave way", "lifts", "size", "mass", "friction"), rows)


def _factors(values: Sequence[float]) -> str:
    return f"x{min(values):.2f}-{max(values):.2f}, median {np.median(values):.2f}"


def tables(content: dict[str, Any]) -> str:
    """Markdown tables of the attacks, the mutation test and the honest lifts."""
    attacks, honest = content["attacks"], content["honest"]
    rows = [
        (attack["what"], *(f"{attack[key]}/{attack['runs']}" for key in _JUDGES), attack["only"] or "")
        for attack in attacks.values()
    ]
    runs = sum(attack["runs"] for attack in attacks.values())
    totals = [sum(attack[key] for attack in attacks.values()) for key in _JUDGES]
    rows.append(("**all**", *(rate(total, runs) for total in totals), ""))
    head = ("attack", "the verdict", "second judge", "robosuite's check", "report's rule", "aimed at")
    mutations = []
    for condition in ALL_CONDITIONS:
        fooled = {name: count for name, a in attacks.items() if (count := a["accepted_without"].get(condition, 0))}
        which = ", ".join(f"{name} {count}" for name, count in fooled.items())
        mutations.append((condition, str(sum(fooled.values())), which))
    disagreed = f"{len(content['disagreements'])} of {content['episodes']}"
    return "\n\n".join(
        (
            f"Accepted as a lift, of {runs} attacks:",
            markdown_table(head, rows),
            "Attacks that the verdict would accept without one of its conditions:",
            markdown_table(("without", "accepted", "which"), mutations),
            f"Honest lifts of other cubes accepted: {rate(honest['accepted'], honest['runs'])}. Pushed afterwards with "
            f"ten times its weight, the cube left its place in the grip by more than {1e3 * MAX_PUSH_M:.0f} mm in "
            f"{honest['pushed_too_far']} of them. The two judges disagreed on {disagreed} episodes.",
            *([_push_table(honest["pushed_far"])] if honest["pushed_far"] else []),
            "What the conditions were judged from, over the holds of the honest lifts:",
            markdown_table(("condition", "measured", "unit", "least", "most", "accepted"), _measured(honest["hold"])),
        )
    )


def _measured(hold: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    texts = ("condition", "what", "unit")
    return [
        (*(row[key].replace("_", " ") for key in texts), f"{row['least']:.3g}", f"{row['most']:.3g}", row["accepted"])
        for row in hold
    ]


_JUDGES = ("accepted", "accepted_by_second_judge", "accepted_by_robosuite", "accepted_by_report")


if __name__ == "__main__":
    run_script(main, SuiteOptions, __doc__)
