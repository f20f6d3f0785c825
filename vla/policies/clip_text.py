"""CLIP's text tower, frozen (report sec. 2.3.2): the text encoder of the report, and of `--scene lift`."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants, try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import Tensor, nn

from vla.errors import UserError
from vla.policies.reachable import is_reachable
from vla.policies.weights import CLIP_DIM, NO_WEIGHTS, Identity, describe, state_hash, untrained

MODEL_NAME = "ViT-B-32"
BATCH_TEXTS = 256
"""Texts that are encoded at a time; a thousand at once would take gigabytes."""
UNTRAINED_SEED = 0
"""Seed of the random weights, so that an untrained encoder is the same everywhere."""


class ClipTextEncoder(nn.Module):
    """CLIP's text transformer, frozen: strings -> (n, 512)."""

    dim = CLIP_DIM

    def __init__(self, clip: nn.Module, identity: Identity) -> None:
        super().__init__()
        del clip.visual
        self.clip: Any = clip.eval().requires_grad_(False)
        self.identity: Identity = {**identity, "sha256": state_hash(self.clip.state_dict())}
        self._tokenize = open_clip.get_tokenizer(MODEL_NAME)

    @classmethod
    def load(cls, source: str) -> ClipTextEncoder:
        """Build the encoder from an open_clip tag, a local file (OpenAI's ViT-B/32), or 'none'.

        If the tag's weights are neither cached nor reachable, the encoder is untrained, from a fixed seed.

        Raises:
            UserError: an unknown tag, or a file that does not hold these weights.
        """
        if source == NO_WEIGHTS:
            return cls._untrained("--clip-weights none")
        if Path(source).is_file():
            return cls._pretrained(source, f"file {Path(source).name}", quick_gelu=True)
        config = open_clip.get_pretrained_cfg(MODEL_NAME, source)
        if not config:
            tags = open_clip.list_pretrained_tags_by_model(MODEL_NAME)
            raise UserError(
                f"--clip-weights {source}: neither a file nor one of open_clip's tags {tags}; use one, or 'none'"
            )
        repository = config.get("hf_hub", "").rstrip("/")
        quick_gelu = bool(config.get("quick_gelu", False))
        cached = _cached(repository)
        if cached:
            return cls._pretrained(cached, f"open_clip {source}", quick_gelu)
        if not is_reachable(constants.ENDPOINT if repository else config["url"]):
            return cls._untrained(f"no network for {source}")
        try:
            clip = _build(source, quick_gelu)
        except (OSError, RuntimeError) as error:
            return cls._untrained(f"{source} could not be downloaded: {str(error).splitlines()[0]}")
        return cls(clip, {"source": f"open_clip {source}", "pretrained": True, "quick_gelu": quick_gelu})

    @classmethod
    def matching(cls, identity: Identity, source: str) -> ClipTextEncoder:
        """Build the encoder that a checkpoint was trained with; pretrained weights come from `source`.

        Raises:
            UserError: `source` gives another encoder here, whose embeddings would mean nothing to the policy.
        """
        encoder = cls._untrained(identity["why"]) if not identity["pretrained"] else cls.load(source)
        if _function(encoder.identity) != _function(identity):
            raise UserError(
                f"the checkpoint was trained with a text encoder that is {describe(identity)}, but here it is "
                f"{describe(encoder.identity)}; give the same weights with --clip-weights"
            )
        return encoder

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """(n, 512) float32 sentence embeddings; what follows a text's first 75 tokens is not read."""
        tokens = self._tokenize(list(texts)).to(next(self.parameters()).device)
        embeddings: Tensor = torch.cat([self.clip.encode_text(batch) for batch in tokens.split(BATCH_TEXTS)])
        return embeddings.float()

    @classmethod
    def _untrained(cls, why: str) -> ClipTextEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNTRAINED_SEED)
            clip = _build(None, quick_gelu=True)
        return cls(clip, untrained("the text encoder", why, UNTRAINED_SEED))

    @classmethod
    def _pretrained(cls, path: str, source: str, quick_gelu: bool) -> ClipTextEncoder:
        try:
            clip = _from_archive(path, quick_gelu) if _is_torchscript(path) else _build(path, quick_gelu)
        except Exception as error:  # open_clip and torch raise various types for broken files
            found = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} does not hold CLIP {MODEL_NAME} weights ({type(error).__name__}: {found}); "
                "give another file, or 'none'"
            ) from None
        return cls(clip, {"source": source, "pretrained": True, "quick_gelu": quick_gelu})


def _build(pretrained: str | None, quick_gelu: bool) -> nn.Module:
    """Build open_clip's model with the given activation.

    OpenAI's weights were trained with QuickGELU. For their tag, open_clip builds GELU and only warns, and the same
    weights would compute something else.
    """
    logging.getLogger().setLevel(logging.ERROR)  # hides open_clip's warning that no pretrained weights are loaded
    return open_clip.create_model(MODEL_NAME, pretrained=pretrained, force_quick_gelu=quick_gelu)


def _is_torchscript(path: str) -> bool:
    """Whether a file is a TorchScript model, as OpenAI publishes its CLIP, and not a dict of weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _from_archive(path: str, quick_gelu: bool) -> nn.Module:
    """Fill open_clip's model with the weights of a TorchScript archive, which have the same names."""
    state = torch.jit.load(path, map_location="cpu").state_dict()
    for name in ("input_resolution", "context_length", "vocab_size"):  # numbers that OpenAI stores with the weights
        state.pop(name, None)
    clip = _build(None, quick_gelu)
    clip.load_state_dict(state)
    return clip


def _function(identity: Identity) -> tuple[str, bool]:
    """What decides an encoder's embeddings: the hash of its weights, and whether its activation is QuickGELU.

    Older checkpoints do not record the activation, which was QuickGELU.
    """
    return identity["sha256"], identity.get("quick_gelu", True)


def _cached(repository: str) -> str | None:
    """Path of a hub repository's weights in the local cache."""
    for name in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, name) if repository else None
        if isinstance(found, str):
            return found
    return None
