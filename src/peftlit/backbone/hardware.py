"""What the hardware can compute in, and how much memory is used."""

from __future__ import annotations

import resource
import sys

import torch

_HOST_SIGNS = ("DefaultCPUAllocator", "not enough memory", "Cannot allocate memory", "can't allocate memory")
_SIGNS = (*_HOST_SIGNS, "OutOfMemoryError", "MemoryError", "out of memory")


def has_bfloat16(device_type: str) -> bool:
    """Tell whether a type of device computes in bfloat16 natively, not by emulation."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def low_precision_dtype(device_type: str) -> torch.dtype:
    """Choose the dtype for 16-bit compute: bfloat16 where native, else float16, float32 on CPUs."""
    if has_bfloat16(device_type):
        return torch.bfloat16
    return torch.float32 if device_type == "cpu" else torch.float16


def widest_float() -> torch.dtype:
    """Return the dtype for sums and counts: float64, or float32 on MPS, which has no other."""
    return torch.float32 if current_device_type() == "mps" else torch.float64


def current_device_type() -> str:
    """Return the device type the Trainer's ``accelerator: auto`` would choose."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception means that host or device memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error) for sign in _HOST_SIGNS)


def says_out_of_memory(line: str) -> bool:
    """Tell whether the last line of another process's traceback means that memory ran out."""
    return any(sign in line for sign in _SIGNS)


def peak_mib() -> float:
    """Return the peak memory of this process in MiB: on the device where there is one, else on the host."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
