"""Policies on the hub, against a local folder laid out as the hub's cache; only the hub's own client is replaced."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import vla
from vla.errors import UserError
from vla.files import SHIPPED
from vla.policies.checkpoint import load_checkpoint
from vla.policies.hub import local_checkpoint
from vla.policies.hub_upload import model_card, push_policy
from vla.training.options import TrainOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped policy as the hub's cache keeps it, and no network; the path of its snapshot."""
    model = tmp_path / "models--ada--lift"
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    shutil.copy(SHIPPED, model / "blobs" / "abc")
    (snapshot / "policy.pth").symlink_to("../../blobs/abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return snapshot / "policy.pth"


@pytest.mark.parametrize("name", ["hf://ada/lift", f"hf://ada/lift@{COMMIT}", "hf://ada/lift@main"])
def test_a_name_on_the_hub_is_a_file_in_its_cache(name: str, cached: Path) -> None:
    assert local_checkpoint(name) == cached
    assert local_checkpoint(Path(name)) == cached  # a path has one slash less
    assert local_checkpoint("some/policy.pth") == Path("some/policy.pth")


def test_a_policy_is_loaded_from_the_hub(cached: Path) -> None:
    policy = vla.load_policy("hf://ada/lift", device="cpu")
    policy.reset("Pick up the cube")
    assert policy.config.chunk_size == 10


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hf://ada/other", "hf download ada/other policy.pth"),
        ("hf://ada/lift@v2", "cannot be reached"),
        ("hf://ada/lift/policy.pth", "hf://USER/NAME"),
        ("hf://a b", "hf://USER/NAME"),
        ("hf://nobody", "hf://USER/NAME"),
    ],
)
def test_what_the_cache_does_not_have_is_one_clear_line(name: str, words: str, cached: Path) -> None:
    with pytest.raises(UserError) as refused:
        local_checkpoint(name)
    assert words in str(refused.value)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


class _RecordingApi:
    """Stands in for `huggingface_hub.HfApi`, which would send over the network."""

    calls: list[tuple[str, dict[str, Any]]]

    def __init__(self) -> None:
        _RecordingApi.calls = []

    def create_repo(self, repo_id: str, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, "exist_ok": exist_ok}))

    def create_commit(self, repo_id: str, operations: list[Any], commit_message: str) -> SimpleNamespace:
        self.calls.append(("create_commit", {"repo_id": repo_id, "operations": operations}))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{COMMIT}")


def test_a_policy_is_uploaded_with_its_card_in_one_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", _RecordingApi)
    assert push_policy(SHIPPED, "ada/lift") == f"https://hub/ada/lift/commit/{COMMIT}"
    (first, made), (second, sent) = _RecordingApi.calls
    assert (first, second) == ("create_repo", "create_commit")
    assert made == {"repo_id": "ada/lift", "exist_ok": True}
    files = {operation.path_in_repo: operation.path_or_fileobj for operation in sent["operations"]}
    assert Path(files["policy.pth"]) == SHIPPED
    assert files["README.md"].decode() == model_card(load_checkpoint(SHIPPED), "ada/lift")


def test_the_card_says_how_the_policy_was_made_and_claims_no_rate() -> None:
    card = model_card(load_checkpoint(SHIPPED), "ada/lift")
    assert card.startswith("---\n")
    for words in (
        'load_policy("hf://ada/lift")',
        "UNTRAINED",
        "5 epochs",
        "mujoco 3.9.0",
        "do not connect it to a robot",
    ):
        assert words in card
    assert "success rate" not in card


def test_an_upload_is_checked_before_the_training(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = cached.parent / "new.pth"
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        TrainOptions(export=export, push_to_hub="ada/lift")
    with pytest.raises(UserError, match="--export"):
        TrainOptions(push_to_hub="ada/lift")
    for name in ("lift", "a/b/c", "a b/c"):
        with pytest.raises(UserError, match="USER/NAME"):
            TrainOptions(export=export, push_to_hub=name)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    TrainOptions(export=export, push_to_hub="ada/lift")
