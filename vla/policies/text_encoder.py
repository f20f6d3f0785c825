"""Text encoders behind one interface, and the cache of their embeddings.

Two can be had: CLIP's text tower (`vla.policies.clip_text`), the report's, and the sentence encoder all-MiniLM-L6-v2
(`vla.policies.minilm`). Both are frozen: an instruction is encoded once, and the network learns to read the result.
A third, `Deaf`, hears nothing. A policy that is trained with it shows what one can reach without language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from vla.errors import UserError
from vla.policies.minilm import DIM as MINILM_DIM
from vla.policies.minilm import MiniLM
from vla.policies.weights import CLIP_DIM, Identity, describe

EncoderName = Literal["clip", "minilm", "deaf"]
"""Value of a checkpoint's text identity under the key `encoder`; an identity without that key is CLIP's."""
EMBEDDING_DIM = CLIP_DIM
"""Width of the default encoder's embeddings."""
TEXT_DIMS: dict[EncoderName, int] = {"clip": CLIP_DIM, "minilm": MINILM_DIM, "deaf": 1}
"""Widths of the encoders' embeddings."""


class TextEncoder(Protocol):
    """A frozen encoder of sentences."""

    identity: Identity
    """Which encoder this is: its name, the hash of its weights, and where they came from."""

    @property
    def dim(self) -> int:
        """Width of an embedding."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, dim) float32 embeddings of n >= 1 texts."""


class Deaf:
    """Gives every sentence the same embedding: zeros."""

    dim = TEXT_DIMS["deaf"]

    def __init__(self) -> None:
        self.identity: Identity = {
            "encoder": "deaf",
            "sha256": hashlib.sha256(b"").hexdigest(),  # it has no weights
            "source": "deaf",
            "pretrained": False,
            "why": "it hears nothing, on purpose",
        }

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, 1) zeros for n texts."""
        return torch.zeros(len(texts), self.dim)


def load_text_encoder(name: EncoderName, clip_weights: str) -> TextEncoder:
    """Build a text encoder by name; `clip_weights` is the source of CLIP's (`ClipTextEncoder.load`).

    Raises:
        UserError: its weights cannot be had here, or are others than they should be.
    """
    if name == "clip":
        return _clip().load(clip_weights)
    return MiniLM.load() if name == "minilm" else Deaf()


def _clip() -> type[ClipTextEncoder]:
    # open_clip's import takes a second, and a policy that hears what it was trained on needs no encoder.
    from vla.policies.clip_text import ClipTextEncoder

    return ClipTextEncoder


def matching_text_encoder(identity: Identity, clip_weights: str) -> TextEncoder:
    """Build the encoder that a checkpoint was trained with; CLIP's pretrained weights come from `clip_weights`.

    Raises:
        UserError: here it is another encoder, whose embeddings would mean nothing to the policy.
    """
    name = identity.get("encoder", "clip")
    if name == "clip":
        return _clip().matching(identity, clip_weights)
    if name not in get_args(EncoderName):
        raise UserError(
            f"the checkpoint was trained with the text encoder {name!r}, but this version has only "
            f"{', '.join(get_args(EncoderName))}; train again with: python 4_train.py"
        )
    if name == "deaf":
        return Deaf()
    encoder = MiniLM.load()
    if encoder.identity["sha256"] != identity["sha256"]:
        raise UserError(
            f"the checkpoint was trained with a text encoder that is {describe(identity)}, SHA-256 "
            f"{identity['sha256'][:12]}..., but here it is {describe(encoder.identity)}, SHA-256 "
            f"{encoder.identity['sha256'][:12]}...; train again with: python 4_train.py"
        )
    return encoder


class InstructionEmbeddings:
    """Embeddings by instruction. The encoder is loaded only when an instruction is not among the known ones."""

    def __init__(self, known: Mapping[str, Tensor], identity: Identity, source: str) -> None:
        """Hold the `known` embeddings, (dim,) each; `identity` and `source` are those of
        `matching_text_encoder`."""
        self._known = dict(known)
        self._identity = identity
        self._source = source
        self._encoder: TextEncoder | None = None

    def __contains__(self, instruction: str) -> bool:
        """Whether the instruction's embedding is known without the encoder."""
        return instruction in self._known

    def __getitem__(self, instruction: str) -> Tensor:
        """(dim,) raw embedding of one instruction."""
        if instruction not in self._known:
            if self._encoder is None:
                self._encoder = self._load_encoder()
            self._known[instruction] = self._encoder([instruction])[0]
        return self._known[instruction]

    def _load_encoder(self) -> TextEncoder:
        return matching_text_encoder(self._identity, self._source)


if TYPE_CHECKING:  # lets mypy compare the encoders with the protocol
    from vla.policies.clip_text import ClipTextEncoder

    _ENCODERS: tuple[TextEncoder, ...] = (ClipTextEncoder.load("none"), MiniLM.load(), Deaf())
