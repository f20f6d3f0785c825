"""Where to compute, in which precision, and what happens when a GPU fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vla.errors import MachineError, UserError, describe_error, is_machine_error
from vla.policies.faults import is_machine_fault


def choose_device(wanted: str = "auto") -> torch.device:
    """The device for `wanted`: auto (a CUDA GPU if there is one), cpu or cuda.

    Raises:
        UserError: there is no such device.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {wanted!r}: give auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16, for `precision` auto, float32 or bfloat16.

    auto chooses bfloat16 if the hardware multiplies it natively; a CPU is then twice as fast as in float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


@contextlib.contextmanager
def mixed_precision(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Compute a training's forward pass under torch's autocast, if `bfloat16`; else in float32."""
    with contextlib.ExitStack() as stack:
        if bfloat16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
            if device.type == "cpu":
                # torch's fused attention needs five times as long for a chunk's ten queries, most of it backward.
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


@contextlib.contextmanager
def stop_on_machine_fault(how_to_go_on: str) -> Iterator[None]:
    """Turn a full or failing GPU or disk, or a lack of memory, into a one-line error that ends with `how_to_go_on`.

    Raises:
        MachineError: torch or the operating system reported such a fault, or a rollout met one.
    """
    try:
        yield
    except MachineError as fault:
        raise MachineError(f"{fault}; {how_to_go_on}") from None
    except OSError as error:
        if not is_machine_error(error):
            raise
        raise MachineError(f"the machine failed ({describe_error(error)}); {how_to_go_on}") from None
    except (RuntimeError, MemoryError) as error:
        if not is_machine_fault(error):
            raise
        what = "the GPU's memory is full" if isinstance(error, torch.OutOfMemoryError) else "the machine failed"
        raise MachineError(f"{what} ({describe_error(error)}); {how_to_go_on}") from None
