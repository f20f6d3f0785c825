"""The page as a command, with a policy of each scene."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from gradio_client import handle_file  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from playwright.sync_api import expect, sync_playwright

from tests.conftest import ROOT
from tests.language_policy import ENV, SEED, write_language_policy
from tests.page import ANSWER_S, Page, episode_inputs, find_chromium, served
from vla.policies.instructions import INSTRUCTIONS
from vla.sim.config import TEST_SEEDS
from vla.sim.table import table_layout
from vla.web.suggestions import named_cubes

pytestmark = pytest.mark.slow

SHORT = 20
"""Control steps of an episode that need not succeed."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page with a policy of each scene; that of one red cube comes first."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "lift.pth").symlink_to(ROOT / "checkpoints/lift.pth")
    write_language_policy(folder / "language.pth")
    with served(folder, "--checkpoint", "lift.pth") as running:
        yield running


def test_both_scenes_are_served_and_the_drivers_scene_is_shown(page: Page) -> None:
    visitor = page.client()
    view, verdict, *_, facts = visitor.predict(
        *episode_inputs("Lift the green cube", "lift.pth", SEED, SHORT), api_name="/simulate"
    )
    assert facts["cube_colours"] == ["red"]
    assert facts["note"].endswith("not about “the green cube”.")
    for html in (view, verdict):
        assert "This policy knows one red cube and lifts it whatever is said" in html
    _, verdict, *_, facts = visitor.predict(
        *episode_inputs("Lift the green cube", "cubes:expert", SEED), api_name="/simulate"
    )
    assert (facts["success"], facts["cube_colours"]) == (True, ["red", "green"])
    assert "Asked for: <b>the green cube</b>" in verdict


def test_two_instructions_from_the_same_seed_run_side_by_side(page: Page) -> None:
    inputs = ("Lift the red cube", "cubes:expert", "Lift the green cube", "cubes:expert", SEED, 200)
    *_, facts = page.client().predict(*inputs, api_name="/compare")
    assert [facts[side]["success"] for side in "ab"] == [True, True]
    assert [facts[side]["cubes_lifted"] for side in "ab"] == [[0], [1]]


def test_a_running_episode_is_told_another_target(page: Page) -> None:
    visitor = page.client()
    inputs = episode_inputs("Lift the red cube", "cubes:expert", SEED, 300)
    job = visitor.submit(*inputs, api_name="/simulate")
    while not any("step" in output[4] for output in job.outputs()):
        assert not job.done()
    visitor.predict("Lift the green cube", api_name="/set_instruction")
    *_, facts = job.result(timeout=ANSWER_S)
    assert facts["success"], facts["verdict"]
    assert (facts["asks_for"], facts["instruction_changes"][0][1]) == ("the green cube", "Lift the green cube")


def test_a_policy_of_several_cubes_is_heard_and_judged(page: Page) -> None:
    view, verdict, *_, facts = page.client().predict(
        *episode_inputs("Lift the green cube", "language.pth", SEED, SHORT), api_name="/simulate"
    )
    assert "heard: “Lift the green cube”, a wording of its training" in view
    assert re.search(r"<h3>(Not lifted|Wrong object)", verdict)
    assert (facts["heard"], facts["heard_similarity"]) == ("Lift the green cube", 1)
    by_hand = episode_inputs("Lift the green cube", "language.pth", SEED, SHORT, (True, 1, 1, 0))
    with pytest.raises(AppError, match="the seed places them all; give no place by hand"):
        page.client().predict(*by_hand, api_name="/simulate")


def test_where_it_looks_is_compared_for_two_instructions(page: Page) -> None:
    visitor = page.client()
    image = handle_file(visitor.predict(SEED, "language.pth", api_name="/first_image_of"))
    said = ("Lift the green cube", "Lift the red cube", "language.pth")
    *maps, note = visitor.predict(image, *said, api_name="/compare_looks")
    assert len(maps) == 2
    assert "Between the two instructions, the commanded motion of the hand differs by" in note
    *_, note = visitor.predict(image, said[0], said[2], api_name="/predict_actions")
    assert "The policy heard: “Lift the green cube”, a wording of its training." in note
    with pytest.raises(AppError, match="the instruction is empty"):
        visitor.predict(image, said[0], " ", said[2], api_name="/compare_looks")


# In a browser


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; install one with: sh .ci/browser.sh")
def test_the_scene_of_several_cubes_opens_with_two_instructions(page: Page) -> None:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        tab = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        errors: list[str] = []
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(page.url)
        tab.get_by_label("Several cubes").click()
        chosen = tab.get_by_role("tab", name="Side by side", exact=True)
        expect(chosen).to_have_attribute("aria-selected", "true", timeout=20_000)
        first, second = (tab.get_by_label(f"Instruction {side}") for side in "AB")
        named = [cube.instruction for cube in named_cubes(table_layout(ENV.scene, TEST_SEEDS.start))]
        expect(first).to_have_value(named[0], timeout=20_000)
        expect(second).to_have_value(named[1])
        tab.locator("button.cube-button:visible").nth(1).click()
        expect(first).to_have_value(named[1], timeout=20_000)
        first.fill("Do nothing")
        expect(tab.get_by_text("nothing is to be moved")).to_be_visible(timeout=20_000)
        first.fill("Make the table tidy")
        expect(tab.get_by_text("No verdict can be given").first).to_be_visible(timeout=20_000)
        tab.get_by_label("One red cube").click()
        expect(tab.get_by_label("Instruction").first).to_have_value(INSTRUCTIONS[0], timeout=20_000)
        chromium.close()
    assert errors == []
