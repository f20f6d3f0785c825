"""Text encoders: the sentence encoder's embeddings and errors, and which encoder a checkpoint gets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vla.policies.minilm
from vla.errors import UserError
from vla.policies.minilm import INSTALL, SHA256, WEIGHTS, MiniLM
from vla.policies.text_encoder import InstructionEmbeddings, load_text_encoder, matching_text_encoder

TEXTS = ("Lift the red cube", "Hoist the crimson block", "Do nothing", "Pick up the cube on the left, please")
FIRST_NUMBERS = (
    (-0.02030189, -0.01228094, -0.04680687, 0.10022347),
    (-0.10341962, 0.02107928, -0.06422239, -0.01957205),
    (0.02486904, 0.05745772, -0.01561670, -0.04406123),
    (-0.00644264, 0.03280996, -0.06059307, 0.12403081),
)
"""Of the embeddings that sentence-transformers 6.2.0 computed with the same weights, transformers 5.24.0 and torch
2.12.0."""
COSINES = ((1.0, 0.28588, 0.20173, 0.67738), (0.28588, 1.0, 0.18190, 0.28643))
"""Of its first two embeddings with all four."""


@pytest.fixture(scope="module")
def minilm() -> MiniLM:
    try:
        return MiniLM.load()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither cache, package nor hub."""
    monkeypatch.setattr(vla.policies.minilm, "try_to_load_from_cache", lambda repository, name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(vla.policies.minilm, "is_reachable", lambda url: False)


def test_minilm_computes_what_sentence_transformers_does(minilm: MiniLM) -> None:
    embeddings = minilm(TEXTS)
    assert embeddings.shape == (4, minilm.dim)
    assert embeddings.dtype == torch.float32
    np.testing.assert_allclose(embeddings[:, :4].numpy(), FIRST_NUMBERS, atol=2e-6)
    np.testing.assert_allclose((embeddings[:2] @ embeddings.T).numpy(), COSINES, atol=2e-5)


def test_a_sentence_has_the_same_embedding_in_any_company(minilm: MiniLM) -> None:
    """Padding counts for nothing; an endless text is cut."""
    together = minilm([*TEXTS, "cube " * 10_000])
    for text, embedding in zip(TEXTS, together, strict=False):
        torch.testing.assert_close(minilm([text])[0], embedding, atol=1e-6, rtol=0)
    torch.testing.assert_close(minilm(["cube " * 300])[0], together[-1], atol=1e-6, rtol=0)


def test_a_checkpoint_gets_the_encoder_that_it_records(minilm: MiniLM) -> None:
    identity = load_text_encoder("minilm", "none").identity
    assert identity == minilm.identity
    embeddings = InstructionEmbeddings({}, identity, "none")
    torch.testing.assert_close(embeddings["Do nothing"], minilm(["Do nothing"])[0])
    other = {**identity, "sha256": "0" * 64}
    with pytest.raises(UserError, match=r"trained with a text encoder .* SHA-256 000000000000.*53aa51172d14"):
        matching_text_encoder(other, "none")


def test_a_deaf_encoder_tells_no_sentence_from_another() -> None:
    deaf = load_text_encoder("deaf", "openai")
    embeddings = deaf(["Lift the red cube", "Do nothing"])
    assert embeddings.shape == (2, deaf.dim)
    assert torch.equal(embeddings[0], embeddings[1])
    known = InstructionEmbeddings({}, deaf.identity, "openai")
    assert torch.equal(known["Lift the green cube"], embeddings[0])


def test_an_encoder_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match="'mpnet', but this version has only clip, minilm"):
        matching_text_encoder({"encoder": "mpnet", "source": "hub", "pretrained": True, "sha256": "0"}, "none")


@pytest.mark.usefixtures("no_files")
def test_missing_weights_are_one_line_with_the_command() -> None:
    with pytest.raises(UserError, match="neither cached nor installed, and the hub cannot be reached") as refused:
        MiniLM.load()
    assert INSTALL in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_not_the_originals_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHA256:
        (tmp_path / name).write_bytes(b"other weights")
    monkeypatch.setattr(vla.policies.minilm, "try_to_load_from_cache", lambda repository, name: str(tmp_path / name))
    with pytest.raises(UserError, match=f"{WEIGHTS} is not the original .*expected 53aa51172d14") as refused:
        MiniLM.load()
    assert INSTALL in str(refused.value)


def test_a_missing_tokenizer_is_one_line_with_the_command(minilm: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="needs the package tokenizers"):
        MiniLM.load()
