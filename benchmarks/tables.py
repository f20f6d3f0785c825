"""Writes the tables of docs/results again from the result files, and into the pages that show them; measures nothing.

For when the way in which a table or a rate is written has changed. A page shows docs/results/NAME.md between
<!-- NAME --> and <!-- /NAME -->; single rates, such as 7/10 = 70% [34.7%, 93.4%], are written again from their counts.

    python benchmarks/tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controls import controls_table
from evaluation_speed import speed_table
from robomimic_peer import peer_table
from scripts import ROOT
from what_matters import arms_table

from tests.attacks.__main__ import tables as attack_tables
from vla.errors import run_script
from vla.evaluation.perturbation_table import perturbation_table
from vla.evaluation.statistics import rate
from vla.files import write_text

RESULTS = ROOT / "docs/results"
TABLES: dict[str, Callable[[Any], str]] = {
    "attacks": attack_tables,
    "controls": controls_table,
    "evaluation_speed": speed_table,
    "peer": lambda content: peer_table(content, json.loads((RESULTS / "shipped_first.json").read_text())),
    "perturb": lambda content: perturbation_table(content["cells"]),
    "perturb_expert": lambda content: perturbation_table(content["cells"]),
    "what_matters": arms_table,
}


@dataclass(frozen=True)
class TablesOptions:
    """Options of the tables."""

    pages: tuple[Path, ...] = tuple(
        ROOT / name for name in ("README.md", "checkpoints/lift.md", "docs/perturbations.md", "docs/verdict.md")
    )
    """Markdown pages to bring up to date."""


def main(options: TablesOptions) -> None:
    for name, table in TABLES.items():
        measured = RESULTS / f"{name}.json"
        if measured.exists():
            write_text(measured.with_suffix(".md"), table(json.loads(measured.read_text())) + "\n")
    for page in options.pages:
        text = re.sub(
            r"(\d+)/(\d+) = \S+% \[\S+%, \S+%\]", lambda found: rate(int(found[1]), int(found[2])), page.read_text()
        )
        write_text(page, re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", _block, text, flags=re.DOTALL))


def _block(match: re.Match[str]) -> str:
    name = match[1]
    return f"<!-- {name} -->\n{(RESULTS / f'{name}.md').read_text().strip()}\n<!-- /{name} -->"


if __name__ == "__main__":
    run_script(main, TablesOptions, __doc__)
