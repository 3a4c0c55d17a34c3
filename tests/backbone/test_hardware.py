from __future__ import annotations

import pytest
import torch

from peftlit.backbone import hardware


@pytest.mark.parametrize(
    ("device", "native", "dtype"),
    [
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("mps", False, torch.float16),
    ],
)
def test_16_bit_compute_is_bfloat16_where_native(device, native, dtype, monkeypatch):
    monkeypatch.setattr(hardware, "has_bfloat16", lambda _: native)
    assert hardware.low_precision_dtype(device) == dtype


def test_emulated_bfloat16_does_not_count_and_unknown_devices_have_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not hardware.has_bfloat16("cuda")
    assert not hardware.has_bfloat16("mps")


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_a_cpu_has_bfloat16_by_avx512_or_amx(avx512, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert hardware.has_bfloat16("cpu") == (avx512 or amx)


@pytest.mark.parametrize(("cuda", "mps", "device"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_current_device_is_the_best_there_is(cuda, mps, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert hardware.current_device_type() == device


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert hardware.is_out_of_memory(error) is expected


def test_a_real_failed_allocation_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45, dtype=torch.float64)
    assert hardware.is_out_of_memory(caught.value)


def test_the_peak_is_in_mebibytes():
    assert 100 < hardware.peak_mib() < 100_000
