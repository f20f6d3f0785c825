"""The README's figures are those of the result file."""

from __future__ import annotations

from tests.conftest import ROOT


def test_readme_shows_the_result_file() -> None:
    readme = (ROOT / "README.md").read_text()
    table = (ROOT / "docs/results/results.md").read_text().strip()
    shown = readme.split("<!-- results -->")[1].split("<!-- /results -->")[0].strip()
    assert shown == table


def test_readme_names_every_file_that_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in [*ROOT.glob("*.py"), *(ROOT / "vla").glob("[a-z]*.py")]:
        assert path.name in readme, path.name
