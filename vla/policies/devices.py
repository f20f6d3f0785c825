"""Where to compute, and how precisely."""

from __future__ import annotations

import torch

from vla.errors import UserError


def choose_device(wanted: str = "auto") -> torch.device:
    """`wanted` is auto (a GPU where there is one), cpu or cuda.

    Raises:
        UserError: a GPU was wanted, and torch finds none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; "auto": where the hardware multiplies it natively (on a CPU twice as fast)."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
