"""Checkpoints: tensors and plain types only, written whole or not at all, checked when they are read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.errors import MachineError, UserError
from vla.files import FileVersion, atomic_path, file_version
from vla.policies.acting_network import arrange_for_acting
from vla.policies.checkpoint_archive import REMEDY, check_archive, refusal
from vla.policies.checkpoint_checks import check_content, check_weights
from vla.policies.execution import Precision
from vla.policies.network import NetworkConfig, PolicyNetwork, TrainableNetwork, model_architecture
from vla.policies.text_encoder import InstructionEmbeddings
from vla.policies.weights import Identity, describe

FORMAT_VERSION = 1
_REQUIRED = ("model_config", "model", "text_identity", "vision_identity", "language", "env_args", "training")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whose `content` has at least the keys in `_REQUIRED`.

    Raises:
        MachineError: it could not be written whole; an older file at `path` stays as it was.
        OSError: no file can be created there.
    """
    with atomic_path(path) as temporary:
        temporary.touch()  # torch reports a folder without write permission as it reports a full disk
        try:
            torch.save({"format_version": FORMAT_VERSION, **content}, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            reason = str(error).splitlines()[0]
            raise MachineError(f"{path} could not be written ({reason}): the disk is full or broken") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check a checkpoint; its tensors are on the CPU.

    Raises:
        UserError: it is missing, broken, or of another format.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train one with: python 4_train.py")
    check_archive(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises various types for broken files
        raise refusal(path, type(error).__name__) from None
    content = _check_format(stored, path)
    check_content(content, path)
    language = content["language"]
    content["language"] = {**language, "embeddings": language["embeddings"].float()}  # half if shared
    return content


def _check_format(stored: object, path: Path) -> dict[str, Any]:
    """Check that what was read from `path` has the keys of a checkpoint; returns it.

    Raises:
        UserError: it is of another format.
    """
    # Another type of dict may have attributes that hide its methods.
    content: dict[str, Any] = stored if type(stored) is dict else {}
    version = content.get("format_version")
    missing = [key for key in _REQUIRED if key not in content]
    if type(version) is int and version == FORMAT_VERSION and not missing:
        return content
    found = str(version)[:20] if version is None or type(version) is int else type(version).__name__
    lacks = f", lacks {missing}" if found == str(FORMAT_VERSION) else ""
    raise UserError(
        f"{path} is not a checkpoint of this project: format version {found}, expected {FORMAT_VERSION}{lacks}; train "
        "again with: python 4_train.py"
    )


def load_parent(path: Path, config: NetworkConfig) -> dict[str, Any]:
    """Read the checkpoint from which a training of a network of this configuration begins.

    Raises:
        UserError: it holds another network.
    """
    parent = load_checkpoint(path)
    # Read through ModelConfig, because an older checkpoint lacks newer fields; it was built with their defaults.
    theirs = model_architecture().ModelConfig.from_dict(parent["model_config"]).to_dict()
    ours = config.to_dict()
    differ = [f"{name} {theirs[name]}, here {value}" for name, value in ours.items() if theirs[name] != value]
    if differ:
        raise UserError(
            f"--init {path} holds another network ({'; '.join(differ)}); give the recipe and options of its training"
        )
    return parent


def export_policy(source: Path, target: Path) -> None:
    """Write the policy of `source` for sharing, with weights and embeddings in half precision: half the size.

    Raises:
        UserError: a weight is too large for half precision.
    """
    content = load_checkpoint(source)
    content.pop("optimizer", None)
    language = content["language"]
    content["language"] = {**language, "embeddings": language["embeddings"].half()}
    weights = content["model"]
    content["model"] = half = {name: w.half() if w.is_floating_point() else w for name, w in weights.items()}
    broken = [name for name, weight in half.items() if not torch.isfinite(weight).all()]
    if broken:
        raise UserError(f"{source} cannot be written in half precision: {broken[0]} overflows; share {source} itself")
    save_checkpoint(target, content)


def build_model(checkpoint: Mapping[str, Any], path: Path) -> TrainableNetwork:
    """Build the network of a checkpoint with its weights, in evaluation mode; `path` is for the error.

    Raises:
        UserError: the weights are of another architecture.
    """
    model = _network_without_memory(checkpoint, path)
    differs = check_weights(model.state_dict(), checkpoint["model"])
    text_dim, width = model.config.text_dim, checkpoint["language"]["embeddings"].shape[1]
    if differs is None and width != text_dim:
        differs = f"the embeddings of its instructions are {width} wide, not {text_dim}"
    if differs is not None:
        raise UserError(f"{path} holds the weights of another architecture ({differs}); {REMEDY}")
    model.to_empty(device="cpu")
    model.load_state_dict(checkpoint["model"])  # strict: every weight is filled
    model.eval()
    return model


def _network_without_memory(checkpoint: Mapping[str, Any], path: Path) -> TrainableNetwork:
    """The network that a checkpoint describes, on torch's device "meta": its weights have shapes and no memory."""
    architecture = model_architecture()
    try:
        config = architecture.ModelConfig.from_dict(checkpoint["model_config"])
        with torch.device("meta"):
            return architecture.VLA(config)
    except UserError as error:
        what = str(error).partition("; train again")[0]
        raise UserError(f"{path} has the configuration of no network ({what}); {REMEDY}") from None
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # of torch's layers
        what = " ".join(str(error).split())[:160]
        raise UserError(f"{path} has the configuration of no network ({what}); {REMEDY}") from None


def build_policy(
    checkpoint: Mapping[str, Any], path: Path, device: torch.device, precision: Precision = "float32"
) -> PolicyNetwork:
    """Build the network of a checkpoint on `device`, arranged for acting; `path` is for the error.

    Raises:
        UserError: as `build_model`.
    """
    model = build_model(checkpoint, path)
    model.to(device)
    return arrange_for_acting(model, device, precision)


def load_policy(
    path: Path, device: torch.device, precision: Precision = "float32"
) -> tuple[PolicyNetwork, dict[str, Any]]:
    """Load the network of a checkpoint onto `device` to act; returns it and the checkpoint's content.

    Both are kept, and loaded again only if the file was rewritten.
    """
    return _load_policy(path, file_version(path), device, precision)


@functools.lru_cache(maxsize=4)
def _load_policy(
    path: Path, version: FileVersion, device: torch.device, precision: Precision
) -> tuple[PolicyNetwork, dict[str, Any]]:
    checkpoint = load_checkpoint(path)
    return build_policy(checkpoint, path, device, precision), checkpoint


def instruction_embeddings(checkpoint: Mapping[str, Any], clip_weights: str) -> InstructionEmbeddings:
    """Embeddings of a checkpoint's instructions; other wordings are encoded by its text encoder (`clip_weights`)."""
    language = checkpoint["language"]
    known: dict[str, Tensor] = dict(zip(language["texts"], language["embeddings"], strict=True))
    return InstructionEmbeddings(known, checkpoint["text_identity"], clip_weights)


def provenance(checkpoint: Mapping[str, Any]) -> str:
    """The initial weights of a policy in one line, for every result."""
    vision: Identity = checkpoint["vision_identity"]
    text: Identity = checkpoint["text_identity"]
    return f"vision {describe(vision)}, text {describe(text)}"
