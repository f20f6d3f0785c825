"""Writes every measured figure into the documents, from the result files in docs/results; measures nothing.

A document marks a figure by two comments, which a reader does not see, and names it in the first:

    It lifted <!-- =rate shipped -->300/300 = 100% [98.7%, 100%]<!-- / --> cubes.

    <!-- =controls -->
    | who acts | report's rule | ...
    <!-- / -->

The names are in `figures.py`. A figure of several lines stands between lines of its own; one within a sentence must not
begin a line, which Markdown would then take for HTML. With --check nothing is written: the first document whose figures
are not those of the result files is an error.

    python benchmarks/tables.py
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from figures import figure
from results import Results
from scripts import ROOT

from vla.errors import UserError, run_script
from vla.files import write_text

_MARKED = re.compile(r"<!-- =(?P<words>[^>]+?) -->(?P<shown>.*?)<!-- / -->", re.DOTALL)


def documents() -> list[Path]:
    """The documents that may show figures. LOG.md is none: its entries say what was measured on their day."""
    names = ("README.md", "CONTRIBUTING.md", "checkpoints/lift.md", "checkpoints/language.md")
    return [*(ROOT / name for name in names), *sorted(ROOT.glob("docs/*.md"))]


@dataclass(frozen=True)
class TablesOptions:
    """Options of the generator."""

    check: bool = False
    """Write nothing; fail where a document shows another figure than its result file holds."""


def main(options: TablesOptions) -> None:
    results = Results()
    for path in documents():
        text = path.read_text(encoding="utf-8")
        rendered = render(text, results, path.name)
        if rendered == text:
            continue
        if options.check:
            raise UserError(f"{path} does not show what the result files hold; run: python benchmarks/tables.py")
        write_text(path, rendered)
        print(f"renewed {path.relative_to(ROOT)}")


def render(text: str, results: Results, name: str) -> str:
    """`text` with every figure as the result files have it.

    Raises:
        UserError: a mark that is not closed, a figure within a sentence that begins a line, or one that cannot be had.
    """

    def renewed(match: re.Match[str]) -> str:
        words = match["words"]
        if "<!-- " in match["shown"]:
            raise UserError(f"{name}: the figure {words!r} is not closed by <!-- / -->")
        shown = figure(results, words)
        own_lines = "\n" in shown or match["shown"].startswith("\n")  # a list may have a single line
        begins_line = not text[: match.start()].rpartition("\n")[2].strip(" -*>")
        if begins_line and not own_lines:
            raise UserError(f"{name}: the figure {words!r} begins a line, which Markdown takes for HTML")
        return f"<!-- ={words} -->{chr(10) + shown + chr(10) if own_lines else shown}<!-- / -->"

    rendered = _MARKED.sub(renewed, text)
    if len(re.findall("<!-- =", text)) != len(_MARKED.findall(text)):
        raise UserError(f"{name}: a figure is not closed by <!-- / -->")
    return rendered


if __name__ == "__main__":
    run_script(main, TablesOptions, __doc__)
