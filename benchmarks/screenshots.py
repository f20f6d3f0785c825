"""Takes screenshots of the page's tabs: on a desk and on a phone, light and dark.

Reads the checkpoints of both scenes and drives the page in Chromium. Writes a PNG for each tab and, if asked, two into
docs.

    python benchmarks/screenshots.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Page as Tab
from scripts import ROOT
from tqdm import tqdm

from tests.page import Page, find_chromium, served, show_tab
from vla.errors import UserError, run_script
from vla.files import default_checkpoint

SIZES = {"wide": (1280, 900), "phone": (390, 800)}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
ANSWER_MS = 120_000


@dataclass(frozen=True)
class ScreenshotOptions:
    """Options of the screenshots."""

    output: Path = Path("runs/screenshots")
    """Folder of the screenshots."""
    readme: bool = False
    """Also renew docs/page.png and docs/page_image.png."""
    data: Path = Path("data/lift_demos.hdf5")
    """File of demonstrations to show."""
    results: Path = Path("videos")
    """Folder of past evaluations to show."""


def main(options: ScreenshotOptions) -> None:
    chromium = find_chromium()
    if chromium is None:
        raise UserError("no Chromium here; install one with: sh .ci/browser.sh")
    inputs = {"--checkpoint": default_checkpoint(), "--data": options.data, "--results": options.results}
    arguments = [word for name, path in inputs.items() for word in (name, str(path.resolve()))]
    language = ("--checkpoint", str(default_checkpoint(language=True).resolve()))
    with served(options.output, *language) as page, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in tqdm(SIZES.items(), unit="size", desc="several cubes"):
            tab = _visit(browser, page, width, height, "light")
            _shoot_cubes(tab, options.output, f"cubes_{name}")
            tab.context.close()
        browser.close()
    with served(options.output, *arguments) as page, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in tqdm(SIZES.items(), unit="size"):
            for scheme in SCHEMES:
                tab = _visit(browser, page, width, height, scheme)
                _shoot(tab, options.output, f"{name}_{scheme}")
                tab.context.close()
        if options.readme:
            tab = _visit(browser, page, 1280, 850, "light")
            _for_readme(tab)
            tab.context.close()


def _visit(browser: Browser, page: Page, width: int, height: int, scheme: Literal["light", "dark"]) -> Tab:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.url)
    tab.get_by_role("tab", name="Full simulation", exact=True).first.wait_for()
    tab.wait_for_timeout(800)  # with several cubes, another tab opens
    show_tab(tab, "Full simulation")
    tab.get_by_role("button", name="Run", exact=True).wait_for()
    return tab


def _keep(tab: Tab, folder: Path, name: str, tab_name: str) -> None:
    tab.wait_for_timeout(800)
    tab.screenshot(path=folder / f"{name}_{tab_name}.png", full_page=True)


def _shoot_cubes(tab: Tab, folder: Path, name: str) -> None:
    """Take the screenshots of the tabs in which an instruction decides something."""
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator("#video video").wait_for(timeout=ANSWER_MS)
    _keep(tab, folder, name, "1_verdict")
    show_tab(tab, "Side by side")
    tab.get_by_role("button", name="Run both").click()
    tab.locator(".verdict:visible").nth(1).wait_for(timeout=ANSWER_MS)
    _keep(tab, folder, name, "2_compare")
    show_tab(tab, "Single image")
    tab.get_by_role("button", name="Use the first frame of this seed").click()
    tab.locator(".image-frame img:visible").first.wait_for(timeout=ANSWER_MS)
    tab.get_by_role("button", name="Predict").click()
    tab.get_by_role("img", name="The image with the planned path").wait_for(timeout=ANSWER_MS)
    tab.get_by_role("button", name="Compare where it looks").click()
    tab.get_by_text("the commanded motion of the hand differs").wait_for(timeout=ANSWER_MS)
    _keep(tab, folder, name, "3_image")


def _shoot(tab: Tab, folder: Path, name: str) -> None:
    """Fill every tab with content and take its screenshot."""

    def keep(tab_name: str) -> None:
        _keep(tab, folder, name, tab_name)

    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator(".conditions li.now").nth(3).wait_for(timeout=ANSWER_MS)
    keep("1_running")
    tab.locator("#video video").wait_for(timeout=ANSWER_MS)
    tab.get_by_role("button", name="Where the cube lies, what is changed, how long").click()
    keep("2_verdict")
    show_tab(tab, "Single image")
    tab.get_by_text("just above the cube").click()
    tab.locator(".image-frame img:visible").first.wait_for()
    tab.get_by_role("button", name="Predict").click()
    tab.get_by_text("its pixels look like").wait_for(timeout=ANSWER_MS)
    keep("3_image")
    show_tab(tab, "Side by side")
    tab.get_by_role("button", name="Run both").click()
    tab.locator(".verdict:visible").nth(1).wait_for(timeout=ANSWER_MS)
    keep("4_compare")
    show_tab(tab, "Evaluations")
    tab.get_by_role("gridcell").first.click(timeout=ANSWER_MS)
    tab.wait_for_timeout(1500)
    keep("5_evaluations")
    show_tab(tab, "Demonstrations")
    keep("6_demonstrations")
    show_tab(tab, "Model")
    tab.wait_for_timeout(1500)
    keep("7_model")


def _for_readme(tab: Tab) -> None:
    """Take the two screenshots in docs."""
    tab.get_by_role("button", name="Run", exact=True).click()
    tab.locator(".conditions li.now").nth(7).wait_for(timeout=ANSWER_MS)
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(path=ROOT / "docs/page.png")
    show_tab(tab, "Single image")
    tab.get_by_text("just above the cube").click()
    tab.locator(".image-frame img:visible").first.wait_for()
    tab.get_by_role("button", name="Predict").click()
    tab.get_by_text("its pixels look like").wait_for(timeout=ANSWER_MS)
    tab.wait_for_timeout(800)
    tab.evaluate("scrollTo(0, 0)")
    tab.screenshot(path=ROOT / "docs/page_image.png")


if __name__ == "__main__":
    run_script(main, ScreenshotOptions, __doc__)
