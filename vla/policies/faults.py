"""Tells a fault of the machine from a fault of a policy, by the exception that it raised."""

from __future__ import annotations

_MACHINE_ERRORS = (OSError, EOFError, MemoryError)
"""OSErrors of every kind: a rollout opens none of the user's files, so `vla.errors.is_machine_error` is too narrow."""
_MACHINE_MESSAGES = ("CUDA error", "cuDNN error", "DefaultCPUAllocator", "gloo")
"""Parts of messages with which torch reports a failing GPU, a lack of memory or a lost connection to another process as
a plain RuntimeError."""
_LIBRARIES_BELOW = ("mujoco", "OpenGL")
"""Libraries whose own exceptions mean a failing renderer or a lack of memory; divergence raises none of them."""


def is_machine_fault(error: Exception) -> bool:
    """Whether `error` is about the machine (memory, GPU, files, connections, GL) and not about the policy."""
    import torch  # here, because whoever only judges episodes and shows them does without it

    torch_errors = (torch.OutOfMemoryError, torch.AcceleratorError, torch.distributed.DistError)
    if isinstance(error, _MACHINE_ERRORS + torch_errors):
        return True
    if isinstance(error, RuntimeError) and any(part in str(error) for part in _MACHINE_MESSAGES):
        return True
    return type(error).__module__.partition(".")[0] in _LIBRARIES_BELOW
