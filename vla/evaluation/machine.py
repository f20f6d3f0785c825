"""The processor that an evaluation ran on: on another one, the same command can give other episodes.

Compilers and libraries choose their instructions by the processor, and thereby the order in which they round.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
"""Names of the instruction sets that numerical libraries choose between, as Linux writes them in /proc/cpuinfo."""


def machine_facts() -> dict[str, str]:
    """Model and instruction sets of the processor, and the system: what repetition to the bit depends on."""
    return {
        "cpu": _cpu_model(),
        "instruction_set": _instruction_set(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    """The processor's name; "unknown" where the system does not say (macOS and Windows: untested)."""
    if platform.system() == "Darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor() or "unknown"
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _instruction_set() -> str:
    """What torch's kernels were chosen for, and the sets that the processor has: 'AVX512 (avx avx2 fma ...)'."""
    # An x86 processor's line is called flags, an Arm processor's Features.
    available = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    named = " ".join(name for name in _FLAGS if name in available)
    return torch.backends.cpu.get_cpu_capability() + (f" ({named})" if named else "")


def _cpuinfo(key: str) -> str:
    """The first value of `key` in Linux's /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _first_line(command: list[str]) -> str:
    """First line of a command's output; empty where it fails."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return output.strip().partition("\n")[0]
