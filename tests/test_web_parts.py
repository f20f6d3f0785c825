"""What the page keeps and shows of files: checkpoints, past evaluations, demonstrations, temporary files."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from vla.demos.schema import open_demos
from vla.errors import UserError
from vla.evaluation.episode import episode_result
from vla.evaluation.results_json import RESULTS_VERSION
from vla.files import atomic_path
from vla.judging.verdict import Judge
from vla.policies.checkpoint import build_model, load_policy
from vla.policies.text_encoder import TextEncoder, matching_text_encoder
from vla.sim.rollout import Step
from vla.sim.table import TableCube, TableLayout
from vla.web import past_evaluations
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.demo_listing import DemoFile
from vla.web.loaded_policy import RecentEmbeddings, TextEncoders
from vla.web.model_facts import _parameters
from vla.web.picture import served
from vla.web.temporary_files import Sweeper
from vla.web.waiting_lines import LINES

INSTRUCTION = "Pick up the cube"
SHIPPED = ROOT / "checkpoints/lift.pth"


def test_only_known_checkpoints_are_opened(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_text("nothing")
    choices = CheckpointChoices(tmp_path / "best_model.pth", "none")
    assert "broken.pth" in choices.names()
    for name, found in (("../broken.pth", "no checkpoint of that name"), ("broken.pth", "not a whole checkpoint")):
        with pytest.raises(UserError, match=found):
            choices[name]


def test_an_image_that_a_browser_may_be_reading_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    image = np.zeros((4, 4, 3), np.uint8)
    path = Path(served(image))
    assert path.read_bytes().startswith(b"\x89PNG")
    path.write_text("the first answer")
    assert served(image) == str(path)
    assert path.read_text() == "the first answer"
    assert served(image + 1) != str(path)


def test_a_checkpoint_that_is_being_written_is_no_choice(tmp_path: Path) -> None:
    choices = CheckpointChoices(tmp_path / "last.pth", "none")
    with atomic_path(tmp_path / "last.pth") as temporary:
        temporary.write_text("the first half")
        assert temporary.suffix == ".pth"
        assert temporary.name not in choices.names()
    assert "last.pth" in choices.names()


def test_a_damaged_checkpoint_does_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "best_model.pth").write_text("nothing")
    shutil.copy(SHIPPED, tmp_path / "other.pth")
    choices = CheckpointChoices(tmp_path / "best_model.pth", "none")
    first = choices.first()
    assert first is not None
    assert first.path.name == "other.pth"
    assert "not a whole checkpoint" in choices.broken()["best_model.pth"]


def test_a_checkpoint_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "policy.pth"
    shutil.copy(SHIPPED, path)
    choices, device = CheckpointChoices(path, "none"), torch.device("cpu")
    before, in_worker = choices["policy.pth"], load_policy(path, device)[0]
    assert choices["policy.pth"] is before
    assert load_policy(path, device)[0] is in_worker
    os.utime(path, ns=(1, 1))
    assert choices["policy.pth"] is not before
    assert load_policy(path, device)[0] is not in_worker


@pytest.mark.slow
def test_checkpoints_share_a_text_encoder_and_only_the_latest_networks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.pth" for number in range(CheckpointChoices.KEPT + 1)]
    for name in names:
        (tmp_path / name).symlink_to(SHIPPED)
    loaded = []

    def counted(identity: Any, source: str) -> TextEncoder:
        loaded.append(identity["sha256"])
        return matching_text_encoder(identity, source)

    monkeypatch.setattr("vla.web.loaded_policy.matching_text_encoder", counted)
    choices = CheckpointChoices(tmp_path / names[0], "none")
    networks = []
    for name in names:
        policy = choices[name]
        assert policy.embedding("A wording of nobody's training").shape == (512,)
        networks.append(weakref.ref(policy.network))
        assert choices[names[0]].path.name == names[0]  # used all the time, so never the one that goes
    del policy
    gc.collect()
    assert len(loaded) == 1
    assert [network() is not None for network in networks] == [True, False, *[True] * (CheckpointChoices.KEPT - 1)]


def test_a_bounded_number_of_instructions_is_kept() -> None:
    known = {"language": {"texts": [INSTRUCTION], "embeddings": [torch.zeros(512)]}, "text_identity": {}}
    embeddings: Any = RecentEmbeddings(known, TextEncoders("none"))
    embeddings._encoder = lambda texts: torch.ones(1, 512)
    for number in range(2 * RecentEmbeddings.KEPT):
        assert embeddings[f"wording {number}"].sum() == 512
    assert "wording 0" not in embeddings
    assert f"wording {2 * RecentEmbeddings.KEPT - 1}" in embeddings
    assert embeddings[INSTRUCTION].sum() == 0


def _write_file(path: Path, age_s: float) -> Path:
    path.write_bytes(b"x" * 1000)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_old_temporary_files_are_deleted_and_the_pages_own_stay(tmp_path: Path) -> None:
    own = _write_file(tmp_path / "example", age_s=9000)
    sweeper = Sweeper(tmp_path)
    old = _write_file(tmp_path / "old", age_s=5000)
    newer = _write_file(tmp_path / "newer", age_s=50)
    newest = _write_file(tmp_path / "newest", age_s=5)
    sweeper.sweep(max_age_s=3600)
    assert [path.exists() for path in (own, old, newer, newest)] == [True, False, True, True]
    sweeper.sweep(max_bytes=1500)
    assert [path.exists() for path in (own, newer, newest)] == [True, False, True]
    sweeper.close()


def test_sweeping_goes_on_while_folders_vanish(tmp_path: Path) -> None:
    """Requests make and delete folders while the sweeper looks at them."""
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(30):
                folder = tmp_path / str(number) / "deep"
                folder.mkdir(parents=True)
                (folder / "file").write_text("x")
            for number in range(30):
                shutil.rmtree(tmp_path / str(number))

    sweeper = Sweeper(tmp_path)
    requests = threading.Thread(target=come_and_go)
    requests.start()
    try:
        for _ in range(500):
            sweeper.sweep()
    finally:
        ended.set()
        requests.join()
        sweeper.close()
    old = _write_file(tmp_path / "old", age_s=5000)
    sweeper.sweep(max_age_s=3600)
    assert not old.exists()


def test_a_visit_opens_the_demonstrations_once(
    demo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page asks for them three times at each visit, in several threads."""
    path = tmp_path / "demos.hdf5"
    shutil.copy(demo_file, path)
    opened = []

    @contextmanager
    def counted(path: Path) -> Iterator[Any]:
        opened.append(path)
        with open_demos(path) as file:
            yield file

    monkeypatch.setattr("vla.web.demo_listing.open_demos", counted)
    demos = DemoFile(path)
    with ThreadPoolExecutor(3) as threads:
        listings = list(threads.map(lambda _: demos.listing(), range(3)))
    assert len(opened) == 1
    assert [row[0] for row in listings[0].rows] == ["demo_0", "demo_1", "demo_2"]
    assert "Table 2" in listings[0].about
    os.utime(path, ns=(1, 1))
    assert demos.listing() == listings[0]
    assert len(opened) == 2
    path.unlink()
    assert "collect them with: python 1_collect_demos.py" in demos.listing().about
    assert demos.listing().rows == []


def test_the_documented_lines_are_the_pages() -> None:
    documented = re.findall(r"^ *\| [^|]+ \| (\d+) \| (\d+) \| (\d+) \|$", (ROOT / "docs/page.md").read_text(), re.M)
    lines = [(str(line.at_once), str(line.max_waiting), str(line.max_of_one_address)) for line in LINES]
    assert documented == lines


def test_the_load_table_counts_what_was_answered_and_what_was_refused_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tally = importlib.import_module("web_visitors").Tally()
    for seconds in (1.0, 3.0):
        tally.add("predictions", "answered", seconds)
    for _ in range(5):
        tally.add("predictions", "refused", 0.1, "400 12 predictions are waiting")
    tally.add("first images", "failed", 9.0, "TimeoutError: timed out")
    result = {
        "machine": {"cpu": "CPU"},
        "cores": 2,
        "ready_s": 1.0,
        "click_s": [],
        "first_frame_s": [1.0],
        "frames_per_s": [1.0],
        "decision_ms": [20.0],
        "episode_s": 6.0,
        "clients": 3,
        "minutes": 1,
        "memory_mb": [1.0],
        "memory_mb_per_minute": 0.0,
        **tally.content(),
    }
    table = importlib.import_module("web_load").load_table(json.loads(json.dumps(result)))
    assert re.search(r"\| predictions +\| 2 +\| 5 +\| 0 +\| 0 +\| 2.0 s +\| 3.0 s +\|", table)
    assert re.search(r"\| first images +\| 0 +\| 0 +\| 0 +\| 1 +\| - +\| - +\|", table)
    assert "- predictions, refused 5 times: 400 12 predictions are waiting" in table
    assert "- first images, failed 1 times: TimeoutError: timed out" in table


def _evaluation(folder: Path, steps: list[Step], judge: Judge, version: int = RESULTS_VERSION, **more: Any) -> Path:
    layout = TableLayout((TableCube("cube", "red", 0.0, 0.0, 0.0),))
    first = steps[0].observation
    result = asdict(episode_result(steps, judge, INSTRUCTION, 3, layout, 0, first, None, np.eye(3, 4)))
    del result["inference_ms"]
    failed = {**result, "success": False, "seed": 4, "failed": "lifted", "verdict": "FAILURE: it fell"}
    failed["failure_kind"] = "dropped"
    options = {"every_instruction": False, "instruction": INSTRUCTION, "blind": False, "seed": 3, "num_episodes": 2}
    content = {
        "results_version": version,
        "policy": "checkpoints/mine.pth",
        "weights": "untrained",
        "options": options,
        "versions": {"mujoco": "3"},
        "episodes": [{**result, "video": None}, {**failed, "video": "elsewhere/episode_4.mp4"}],
        **more,
    }
    folder.mkdir()
    path = folder / "results.json"
    path.write_text(json.dumps(content))
    (folder / "episode_4.mp4").write_bytes(b"video")
    return path


def test_past_evaluations_are_shown_or_it_is_said_why_not(
    tmp_path: Path, expert_episode: tuple[list[Step], Judge]
) -> None:
    good = _evaluation(tmp_path / "good", *expert_episode)
    os.utime(_evaluation(tmp_path / "older", *expert_episode, version=1, episodes=[{"seed": 1}]), (1, 1))
    os.utime(_evaluation(tmp_path / "bare", *expert_episode, options={}), (1, 1))
    shown = past_evaluations.find_evaluations(tmp_path)
    assert next(iter(shown)) == str(good)
    assert not any("older" in name or "bare" in name for name in shown)
    hidden = past_evaluations.hidden_evaluations(tmp_path)
    assert f"`{tmp_path / 'older/results.json'}`: damaged, or of another version" in hidden
    assert "bare/results.json" in hidden
    found = past_evaluations.latest_evaluation(tmp_path)
    assert found is not None
    assert found.path == good
    assert [episode.seed for episode in found.episodes] == [4, 3]  # failures first
    assert found.videos == [tmp_path / "good/episode_4.mp4", None]
    assert "checkpoints/mine.pth" in past_evaluations.description(found)


def test_table_1_counts_the_trained_network_and_not_the_rearranged_one() -> None:
    """The acting network holds most of its weights outside of parameters."""
    path = SHIPPED
    acting, checkpoint = load_policy(path, torch.device("cpu"))
    trained: Any = build_model(checkpoint, path)
    total = sum(parameter.numel() for parameter in trained.parameters())
    assert f"**{total:,}**" in _parameters(acting, "clip")
