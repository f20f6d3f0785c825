"""Kills runs of the scripts with SIGKILL at random moments, and counts what is lost of what they had acknowledged.

A run is started in a process group of its own, which is killed as a whole. What the run acknowledged is then read from
the disk: every file must be readable, and every demonstration, epoch or episode that the run had printed as finished,
or that an earlier start had left there, must be there, unchanged. The same command then continues the run, until the
next kill. A run that has ended must equal one that was never killed: demonstrations, weights and episodes to the bit.

Some moments lie in the start of a run, the others behind its writings: half of them within 0.1 s of the moment at which
a temporary file appears, half of them at any time until the next one.

Collects the demonstrations that the runs read. Writes the counts into the result file, one kind of run after the other;
a kind that is in it is not measured again, unless another --output is named. The files of a run that lost nothing are
removed.

    python benchmarks/kills.py
    python benchmarks/kills.py --kinds dagger merging --kills 10 10
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_kinds import KINDS, Inputs
from killed_run import kill_runs
from scripts import run_stage
from tqdm import tqdm
from trainings import check_comparable

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.files import write_text
from vla.markdown import markdown_table

KILLS_VERSION = 1


@dataclass(frozen=True)
class KillsOptions:
    """Options of the benchmark."""

    kinds: tuple[str, ...] = ("collecting", "training", "evaluating")
    """Kinds of runs to kill: collecting, training, evaluating, dagger, merging."""
    kills: tuple[int, ...] = (50, 50, 20)
    """Kills of each kind, in the same order."""
    seed: int = 0
    """Seed of the moments."""
    work_dir: Path = Path("runs/kills")
    """Folder of the runs."""
    output: Path = Path("docs/results/kills.json")
    """Result file."""

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise UserError(f"--kinds {' '.join(unknown)}: the kinds of runs are {', '.join(KINDS)}")
        if len(self.kills) != len(self.kinds) or min(self.kills) < 1:
            raise UserError(f"--kills {self.kills}: give a number of at least 1 for each of --kinds {self.kinds}")

    def begun(self) -> dict[str, Any]:
        """A result file without kills; `settings` is what all kinds in one file must share."""
        settings = {"seed": self.seed, "versions": run_versions(), "machine": machine_facts()}
        return {"kills_version": KILLS_VERSION, "settings": settings, "kinds": {}}


def main(options: KillsOptions) -> None:
    content = options.begun()
    if options.output.exists():
        content = check_comparable(options.output, content)
    wanted = [pair for pair in zip(options.kinds, options.kills, strict=True) if pair[0] not in content["kinds"]]
    if wanted:
        work_dir = options.work_dir.resolve()
        if work_dir.exists():
            raise UserError(
                f"{work_dir} holds the files of earlier runs; look at them, and remove it: rm -r {work_dir}"
            )
        inputs = _collect(work_dir, any(name == "merging" for name, _ in wanted))
        with tqdm(total=sum(kills for _, kills in wanted), unit="kill") as bar:
            for name, kills in wanted:
                bar.set_description(name)
                tally = kill_runs(KINDS[name](inputs), work_dir / name, kills, options.seed, bar)
                content["kinds"][name] = dataclasses.asdict(tally)
                write_text(options.output, json.dumps(content, indent=1))
        if not any(content["kinds"][name]["faults"] for name, _ in wanted):
            shutil.rmtree(work_dir)
    print(kills_table(content))
    faults = [fault for kind in content["kinds"].values() for fault in kind["faults"]]
    if faults:
        raise UserError(f"{len(faults)} faults, such as {faults[0]}; all are in {options.output}")


def _collect(folder: Path, both: bool) -> Inputs:
    """Collect the demonstrations that runs read; `both`: the others, too."""
    inputs = Inputs(folder / "demos.hdf5", folder / "others.hdf5")
    for seed, path in ((0, inputs.demos), (1000, inputs.others))[: 2 if both else 1]:
        numbers = ("--num-episodes", 4, "--seed", seed, "--workers", 1)
        run_stage("1_collect_demos.py", "--output", path, *numbers, "--video-episodes")
    return inputs


def kills_table(content: dict[str, Any]) -> str:
    """What was counted of each kind, as Markdown."""
    columns = {
        "kills": "kills",
        "early": "before anything was acknowledged",
        "while_writing": "while a file was being written",
        "acknowledged": "acknowledged items",
        "lost": "lost",
        "unreadable": "unreadable files",
        "finished": "runs that ended",
        "differing": "not equal to an unkilled run",
        "refused": "runs that did not go on",
    }
    rows = [(name, *(str(kind[key]) for key in columns)) for name, kind in content["kinds"].items()]
    return markdown_table(("runs of", *columns.values()), rows)


if __name__ == "__main__":
    run_script(main, KillsOptions, __doc__, "remove --work-dir, and run the same command again")
