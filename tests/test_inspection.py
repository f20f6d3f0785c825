"""What the inspection measures of demonstrations, and its page: as a file, and in Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.page import find_chromium
from vla.demos import inspection_page
from vla.demos.inspection import (
    IDLE_STEPS,
    STILL_M,
    Inspected,
    check_episodes,
    closing_steps,
    idle_stretches,
    inspect_file,
    nearest,
)
from vla.demos.inspection_charts import closing_chart
from vla.errors import UserError
from vla.judging.verdict import Verdict
from vla.sim.env import Simulator

SCRIPT = "</script><script>window.pwned=1</script><!--${window.pwned=1}{{7*7}}"


def _track(still: slice, steps: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hand that moves by twice the limit in every step but those of `still`; open fingers; the phase approach."""
    moved = np.full(steps, 2 * STILL_M)
    moved[still] = 0
    positions = np.zeros((steps + 1, 3))
    positions[1:, 0] = np.cumsum(moved)
    return positions, np.full(steps + 1, 0.07), np.array([b"approach"] * steps)


def test_idle_stretches_are_long_enough_and_not_part_of_the_task() -> None:
    positions, opening, phases = _track(slice(5, 5 + IDLE_STEPS))
    assert idle_stretches(positions, opening, phases) == [(5, 5 + IDLE_STEPS)]
    shorter, _, _ = _track(slice(5, 4 + IDLE_STEPS))
    assert idle_stretches(shorter, opening, phases) == []
    closing = opening - 0.001 * np.arange(len(opening))
    assert idle_stretches(positions, closing, phases) == []
    assert idle_stretches(positions, opening, np.where(np.arange(40) == 9, b"hold", phases)) == []
    to_the_end, _, _ = _track(slice(20, None))
    assert idle_stretches(to_the_end, opening, phases) == [(20, 40)]


def test_the_gripper_closes_where_the_command_changes() -> None:
    assert closing_steps(np.array([-1.0, -1, 1, 1, 0, 1, -1, 1])) == [2, 5, 7]
    assert closing_steps(np.array([1.0, 1])) == [0]
    chart = closing_chart([[20, 60], [], [20]])
    assert chart.high == "4 s"
    bins = chart.width / 16
    assert [(bar[0], bar[3]) for bar in chart.bars] == [(4 * bins, chart.height / 2), (12 * bins, chart.height / 2)]
    assert f"{4 * bins},0.0" in chart.outline  # both episodes close for the first time after 1 s


def _episode(name: str, start: tuple[float, float, float] | None, height_m: float = 1.0) -> Inspected:
    nothing = np.zeros((1, 7))
    path = np.tile([0.0, 0.0, height_m], (20, 1))
    words = Verdict(True, True, "SUCCESS")
    column = np.array([b"approach"])
    return Inspected(
        name, "train", False, "", 0, None, 0, nothing, nothing, column, column, {}, True, words, start, path, [], []
    )


def test_the_distance_of_two_demonstrations_adds_place_angle_and_path() -> None:
    episodes = [
        _episode("demo_0", (0.0, 0.0, 44.0)),
        _episode("demo_1", (0.3, 0.4, -45.0)),  # one degree further: a cube looks the same after a quarter turn
        _episode("demo_2", (0.0, 0.0, 44.0), height_m=1.02),
        _episode("demo_3", None),
    ]
    found = nearest(episodes)
    assert found[3] is None
    assert [None if one is None else one.index for one in found[:3]] == [1, 0, 0]
    assert found[0] is not None
    assert found[0].distance_cm == pytest.approx(np.hypot(0.5, 2.8 * np.radians(1)))
    assert found[2] is not None
    assert found[2].distance_cm == pytest.approx(2.0)
    assert nearest(episodes[:1]) == [None]


@pytest.fixture(scope="module")
def faulty(demo_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which demo_1 has a wrong label and a hostile instruction, demo_2 an action that is no number, and
    demo_3 is a copy of demo_0 on the other side of the split."""
    path = tmp_path_factory.mktemp("faulty") / "faulty.hdf5"
    shutil.copy(demo_file, path)
    with h5py.File(path, "a") as file:
        del file["index"]
        data = file["data"]
        file.copy(data["demo_0"], data, "demo_3")
        sides = [name for name in ("train", "valid") if b"demo_0" not in file[f"mask/{name}"][:]]
        joined = np.array([*file[f"mask/{sides[0]}"][:], b"demo_3"])
        del file[f"mask/{sides[0]}"]
        file[f"mask/{sides[0]}"] = joined
        data["demo_1"].attrs["success"] = False
        data["demo_1"].attrs["language_instruction"] = SCRIPT
        data["demo_2/actions"][3, 0] = 1.5
    return path


@pytest.fixture(scope="module")
def page(faulty: Path) -> Path:
    path = faulty.with_name("index.html")
    with h5py.File(faulty) as file:
        inspection_page.write_page(path, faulty, file, inspect_file(file, ["demo_0", "demo_1", "demo_3"]))
    return path


def _rows(page: Path) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    rows: list[dict[str, Any]] = json.loads(found[1])["episodes"]
    return rows


def test_the_page_says_what_needs_a_look_and_loads_nothing(page: Path) -> None:
    rows = _rows(page)
    near, other = ["near-duplicate"], rows[3]["split"]
    assert [row["notes"] for row in rows] == [near, ["label differs"], ["actions out of range"], near]
    assert rows[0]["nearest"] == ["demo_3", other, 0.0]
    assert [row["excluded"] for row in rows] == [False, False, True, False]
    assert rows[1]["instruction"] == SCRIPT
    text = page.read_text(encoding="utf-8")
    assert SCRIPT not in text
    assert "2 of 4 episodes, 2 across the split" in text
    outside = set(re.findall(r"https?://[^\s\"']+", text))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert all(0 < len(row["pictures"]["frames"]) <= inspection_page.FRAMES for row in rows)
    assert len(text) < 4 * 130_000  # 20 MB for 150 episodes


def test_the_angle_at_the_start_is_the_simulators(page: Path, sim: Simulator) -> None:
    for row in _rows(page)[:2]:
        sim.reset(row["seed"])
        difference = (row["start"][2] - sim.target_yaw_deg() + 45) % 90 - 45
        assert abs(difference) < 0.1


def test_a_wrong_label_is_an_error_unless_it_is_excluded(faulty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(faulty) as file:
        for kept, words in ((["demo_0", "demo_1"], "demo_1 is labelled success=False"), (["demo_2"], "outside")):
            with pytest.raises(UserError, match=words):
                check_episodes(inspect_file(file, kept), faulty, Path("index.html"), None)
        check_episodes(inspect_file(file, ["demo_0", "demo_3"]), faulty, Path("index.html"), None)
    assert "2 episodes, each judged again from its evidence: all labels hold" in capsys.readouterr().out


def test_pictures_that_do_not_fit_are_left_out_and_said(
    faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection_page, "PICTURE_CHARACTERS", 1)
    path = tmp_path / "index.html"
    with h5py.File(faulty) as file:
        episodes = inspect_file(file, ["demo_0"])[1:3]  # without the two copies
        inspection_page.write_page(path, faulty, file, episodes[::-1])
    assert [row["pictures"] is None for row in _rows(path)] == [False, True]
    assert "frames and curves of 1 of 2 episodes" in path.read_text(encoding="utf-8")


CHROMIUM = find_chromium()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None and not os.environ.get("BROWSER_REQUIRED"):
        pytest.skip("no Chromium here; install one and run these tests with: make test-web")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 390])
def test_a_person_looks_and_excludes(browser: Browser, page: Path, width: int, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    tab.get_by_role("button", name="demo_0").click()
    slider = tab.get_by_role("slider", name="step of demo_0")
    slider.focus()
    slider.press("End")
    steps = _rows(page)[0]["steps"]
    expect(tab.locator(".reading")).to_contain_text(f"step {steps} of {steps} · ")
    expect(tab.locator(".reading")).to_contain_text("· hold · gripper closes")
    tab.keyboard.press("j")
    tab.keyboard.press("x")
    expect(tab.locator("tr.detail")).to_contain_text("SUCCESS")
    tab.get_by_label("only what needs a look").check()
    tab.get_by_label("Filter").fill("label differs")
    expect(tab.locator("#shown")).to_have_text("1 of 4 episodes")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download exclude.txt").click()
    download.value.save_as(tmp_path / "exclude.txt")
    assert (tmp_path / "exclude.txt").read_text() == "demo_1\ndemo_2\n"  # demo_2 was on the list already
    tab.locator("#list summary").click()
    assert tab.locator("#names").input_value() == "demo_1\ndemo_2\n"
    assert tab.evaluate("window.pwned") is None
    assert errors == []
    context.close()
