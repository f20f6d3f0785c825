"""Checkpoints: tensors and plain types only, written whole or not at all, checked when read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla import stages
from vla.errors import UserError
from vla.files import atomic_path
from vla.policies.text_encoder import InstructionEmbeddings
from vla.policies.weights import Identity, describe

FORMAT_VERSION = 1
_REQUIRED = ("model_config", "model", "text_identity", "vision_identity", "language", "env_args", "training")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint; `content` holds at least the keys in `_REQUIRED`."""
    with atomic_path(path) as temporary:
        try:
            torch.save({"format_version": FORMAT_VERSION, **content}, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"{path} could not be written ({str(error).splitlines()[0]}); is the disk full?") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint.

    Raises:
        UserError: missing, broken, or of another format.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train one with: python 4_train.py")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a different type for each way in which a file can be broken
        raise UserError(
            f"{path} is not a whole checkpoint ({type(error).__name__}); train again with: python 4_train.py"
        ) from None
    found = stored.get("format_version") if isinstance(stored, dict) else None
    missing = [key for key in _REQUIRED if found == FORMAT_VERSION and key not in stored]
    if found != FORMAT_VERSION or missing:
        raise UserError(
            f"{path} is not a checkpoint of this project: format version {found}, expected {FORMAT_VERSION}"
            f"{f', lacks {missing}' if missing else ''}; train again with: python 4_train.py"
        )
    content: dict[str, Any] = stored
    return content


def load_parent(path: Path, config: Any) -> dict[str, Any]:
    """The checkpoint that a training of a network of `config` (`ModelConfig`) begins from.

    Raises:
        UserError: it holds another network.
    """
    parent = load_checkpoint(path)
    # Through ModelConfig, so that an older checkpoint's missing fields have the values that it was built with.
    theirs, ours = type(config).from_dict(parent["model_config"]).to_dict(), config.to_dict()
    differ = [f"{name} {theirs[name]}, here {value}" for name, value in ours.items() if theirs[name] != value]
    if differ:
        raise UserError(
            f"--init {path} is another network ({'; '.join(differ)}); give the recipe and options of its training"
        )
    return parent


def export_policy(source: Path, target: Path) -> None:
    """Write the policy of `source` for sharing: weights in half precision, half the size."""
    content = load_checkpoint(source)
    content.pop("optimizer", None)
    weights = content["model"]
    content["model"] = half = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    broken = [name for name, weight in half.items() if not torch.isfinite(weight).all()]
    if broken:
        raise UserError(f"{source} cannot be written in half precision: {broken[0]} overflows; share {source} itself")
    save_checkpoint(target, content)


def build_model(checkpoint: Mapping[str, Any], path: Path) -> Any:
    """The network of a checkpoint (`3_model_architecture.VLA`) with its weights, in evaluation mode.

    Raises:
        UserError: the weights are of another architecture.
    """
    architecture = stages.model_architecture()
    model = architecture.VLA(architecture.ModelConfig.from_dict(checkpoint["model_config"]))
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise UserError(
            f"{path} holds the weights of another architecture ({' '.join(str(error).split())[:160]} ...); "
            "train again with: python 4_train.py"
        ) from None
    return model.eval()


def load_policy(path: Path, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint on `device`, and the checkpoint; loaded again where it was rewritten."""
    return _load_policy(path, path.stat().st_mtime_ns if path.is_file() else None, device)


@functools.lru_cache(maxsize=4)
def _load_policy(path: Path, written_ns: int | None, device: torch.device) -> tuple[Any, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    return build_model(checkpoint, path).to(device), checkpoint


def instruction_embeddings(checkpoint: Mapping[str, Any], clip_weights: str) -> InstructionEmbeddings:
    """The embeddings that travel in the checkpoint, and the encoder behind them for other wordings."""
    language = checkpoint["language"]
    known: dict[str, Tensor] = dict(zip(language["texts"], language["embeddings"], strict=True))
    return InstructionEmbeddings(known, checkpoint["text_identity"], clip_weights)


def provenance(checkpoint: Mapping[str, Any]) -> str:
    """Which weights the policy grew from, in one line for every result."""
    vision: Identity = checkpoint["vision_identity"]
    text: Identity = checkpoint["text_identity"]
    return f"vision {describe(vision)}, text {describe(text)}"
