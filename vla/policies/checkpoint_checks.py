"""Checks on a checkpoint that may come from anybody: nothing in it runs, and it takes no more memory than its own size.

`vla.policies.checkpoint_archive` looks at the file before torch reads it, `check_content` at what torch has read, and
`check_weights` at the weights beside the network that the configuration describes, before it takes any memory.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.errors import UserError
from vla.policies.checkpoint_archive import RefusedError, refusal
from vla.policies.network import model_architecture
from vla.sim.config import check_env_args

MOST_VALUES = 500_000
"""Numbers, texts, tensors and containers in a checkpoint."""
MOST_DEPTH = 30
"""Containers within containers."""
MOST_TEXT = 100_000
"""Characters of any text."""
MOST_INSTRUCTION = 1000
"""Characters of an instruction."""
MOST_WIDTH = 16_384
"""Largest number in a configuration that has no limit of its own below: the width of a layer."""
MOST = {
    "size_px": 1024,
    "observation_horizon": 1000,
    "chunk_size": 1000,
    "located_cubes": 1000,
    "decoder_layers": 100,
    "heads": 1000,
}


def check_content(content: Mapping[str, Any], path: Path) -> None:
    """Check what torch has read from a file that `check_archive` let pass, and that has all the keys of a checkpoint.

    Raises:
        UserError: a value is of another type than its use, not finite, or of an absurd size.
    """
    try:
        _check_sizes(content, path.stat().st_size)
        _check_language(content["language"])
        _check_tensors(content["model"])
        _check_config(content["model_config"])
        for name in ("text_identity", "vision_identity"):
            _check_identity(content[name], name)
        training = content["training"]
        if not isinstance(training, dict) or type(training.get("epoch")) is not int:
            raise RefusedError("training is no record of a training")
        check_env_args(content["env_args"])
    except (RefusedError, UserError) as refused:
        raise refusal(path, refused) from None


def _check_sizes(content: object, size: int) -> None:
    """Check that all values are plain types, and not larger than the file: a tensor can claim to be."""
    visited, claimed = 0, 0
    left: list[tuple[object, int]] = [(content, 0)]
    while left:
        value, depth = left.pop()
        visited += 1
        if visited > MOST_VALUES or depth > MOST_DEPTH:
            raise RefusedError(f"it holds more than {MOST_VALUES} values, or deeper ones than {MOST_DEPTH} levels")
        if isinstance(value, Tensor):
            claimed += value.numel() * value.element_size()
        elif isinstance(value, str) and len(value) > MOST_TEXT:
            raise RefusedError(f"a text of {len(value)} characters")
        left += [(child, depth + 1) for child in _children(value)]
    if claimed > size:
        raise RefusedError(f"its tensors claim {claimed / 1e6:.1f} MB, and the file has {size / 1e6:.1f}")


def _children(value: object) -> Iterator[object]:
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        if set(getattr(value, "__dict__", {})) - {"_metadata"}:  # it would hide the dict's own methods
            raise RefusedError("a dict with attributes")
        yield from value.keys()
        yield from value.values()
    elif type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        yield from value
    elif type(value) not in (str, int, float, bool, type(None), Tensor):
        raise RefusedError(f"a value of type {type(value).__name__}")


def _check_language(stored: object) -> None:
    texts, embeddings = (stored.get("texts"), stored.get("embeddings")) if isinstance(stored, dict) else (None, None)
    if (
        not isinstance(texts, list)
        or not isinstance(embeddings, Tensor)
        or not embeddings.is_floating_point()
        or embeddings.ndim != 2
        or len(texts) != len(embeddings)
    ):
        raise RefusedError("it lacks an embedding for each of its instructions")
    if any(not isinstance(text, str) or len(text) > MOST_INSTRUCTION for text in texts):
        raise RefusedError(f"an instruction is no text of at most {MOST_INSTRUCTION} characters")
    _check_tensors({"the embeddings of the instructions": embeddings})


def _check_tensors(stored: object) -> None:
    if not isinstance(stored, dict):
        raise RefusedError("its weights are no dict of tensors")
    for name, value in stored.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
            raise RefusedError("its weights are no dict of tensors")
        if value.is_floating_point() and not _is_finite(value):
            raise RefusedError(f"{name[:80]} holds numbers that are not finite")


def _is_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite. The smallest and the largest tell, in half the time of a look at each."""
    return not values.numel() or all(math.isfinite(bound) for bound in torch.stack(torch.aminmax(values)).tolist())


def _check_config(stored: object) -> None:
    """Check the types and the numbers of a network's configuration, which decide how much memory it takes."""
    if not isinstance(stored, dict) or not isinstance(stored.get("image", {}), dict):
        raise RefusedError("model_config is no configuration of a network")
    defaults: dict[str, Any] = model_architecture().ModelConfig().to_dict()
    known = {**defaults, **defaults["image"]}
    for name, value in {**stored, **stored.get("image", {})}.items():
        if name == "image" or name not in known:  # unknown ones are another architecture's, which building reports
            continue
        wanted = (int, float) if isinstance(known[name], float) else (type(known[name]),)
        if type(value) not in wanted:
            raise RefusedError(f"{name} of its configuration is of type {type(value).__name__}")
        if type(value) in (int, float) and not 0 <= value <= MOST.get(name, MOST_WIDTH):
            raise RefusedError(f"{name} of its configuration is {value!r}")


def _check_identity(stored: object, name: str) -> None:
    """Check what a checkpoint says about initial weights (`vla.policies.weights.Identity`)."""
    if isinstance(stored, dict) and isinstance(stored.get("pretrained"), bool):
        words = ["source" if stored["pretrained"] else "why"] + ["sha256"] * (name == "text_identity")
        if all(isinstance(stored.get(word), str) for word in words):
            return
    raise RefusedError(f"{name} does not say where the weights come from")


def check_weights(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str | None:
    """Compare stored weights with those of a network, which need not be in memory; returns the first difference."""
    for name, tensor in expected.items():
        if name not in stored:
            return f"lacks {name}"
        found = stored[name]
        if found.shape != tensor.shape or found.is_floating_point() != tensor.is_floating_point():
            return f"{name} is {tuple(found.shape)} {found.dtype}, not {tuple(tensor.shape)} {tensor.dtype}"
    unknown = [name for name in stored if name not in expected]
    return f"has {unknown[0][:80]}, which the network lacks" if unknown else None
