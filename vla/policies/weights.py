"""Initial weights: from a hub, from a local file, or random; and the record of which they were.

The record is a small dict of plain types, an identity. It is stored in the checkpoint and in every result, so that a
run on untrained weights cannot pass for one on pretrained ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from vla.errors import UserError
from vla.policies.reachable import is_reachable

Identity = dict[str, Any]
"""Where weights come from. Keys: `source` and `pretrained`; of pretrained ones `sha256`, of others `why` and `seed`."""

CLIP_DIM = 512
"""Width of the embeddings of CLIP's text tower (ViT-B/32)."""
NO_WEIGHTS = "none"
"""Value of --vision-weights and --clip-weights that asks for random weights."""
IMAGENET_WEIGHTS = "IMAGENET1K_V1"
"""torchvision's tag of ResNet18's ImageNet weights."""


def state_hash(state: dict[str, Tensor]) -> str:
    """Hex digest of a state dict's names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def untrained(what: str, why: str, seed: int | None = None) -> Identity:
    """Identity of weights that are not pretrained; prints a warning."""
    print(f"WARNING: {what} starts UNTRAINED ({why})")
    return {"source": "untrained", "pretrained": False, "why": why, "seed": seed}


def from_scratch(recipe: str) -> Identity:
    """Identity of vision weights that a training recipe wants random; prints how to start from ImageNet's instead."""
    print(f"vision starts from scratch (recipe {recipe}); --vision-weights {IMAGENET_WEIGHTS} starts from ImageNet's")
    return {"source": "untrained", "pretrained": False, "why": f"from scratch, recipe {recipe}", "seed": None}


def describe(identity: Identity) -> str:
    """The identity in one phrase, for logs and tables."""
    if identity["pretrained"]:
        return f"pretrained ({identity['source']})"
    return f"UNTRAINED ({identity['why']})"


def load_vision_weights(vision: nn.Module, source: str) -> Identity:
    """Fill the ResNet18 inside `vision` from `source`: a torchvision tag, a local file, or 'none'.

    A tag that is neither cached nor reachable leaves the weights as they are, with a warning.

    Raises:
        UserError: an unknown tag, or a file that does not hold ResNet18's weights.
    """
    if source == NO_WEIGHTS:
        return untrained("the vision encoder", "--vision-weights none")
    if Path(source).is_file():
        return _fill_resnet(vision, read_state(Path(source)), f"file {Path(source).name}")
    try:
        weights = torchvision.models.ResNet18_Weights[source]
    except KeyError:
        known = [entry.name for entry in torchvision.models.ResNet18_Weights]
        raise UserError(
            f"--vision-weights {source}: neither a file nor one of torchvision's tags {known}; use one, or 'none'"
        ) from None
    cached = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not cached.exists() and not is_reachable(weights.url):
        return untrained("the vision encoder", f"no network for {source}")
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        return untrained("the vision encoder", f"{source} could not be downloaded: {error}")
    return _fill_resnet(vision, state, f"torchvision {source}")


def _fill_resnet(vision: nn.Module, state: dict[str, Tensor], source: str) -> Identity:
    renamed = {
        name.replace("conv1", "stem.0", 1).replace("bn1", "stem.1", 1)
        if name.startswith(("conv1", "bn1"))
        else name: value
        for name, value in state.items()
        if not name.startswith("fc.")
    }
    try:
        missing, unexpected = vision.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise UserError(f"{source} does not fit ResNet18: {' '.join(str(error).split())[:200]}") from None
    missing = [name for name in missing if not name.startswith("keypoints.")]
    if missing or unexpected:
        raise UserError(
            f"{source} does not hold ResNet18's weights: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return {"source": source, "pretrained": True, "sha256": state_hash(state)}


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a local file.

    Raises:
        UserError: it is not a file of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises various types for broken files
        raise UserError(f"{path} is not a file of weights ({type(error).__name__}); give another, or 'none'") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} does not hold a dict of tensors; give another file, or 'none'")
    return state
