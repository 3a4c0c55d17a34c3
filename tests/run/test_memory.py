"""What is said when memory ran out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from peftlit.backbone import Backbone
from peftlit.backbone.hardware import is_out_of_memory, peak_mib
from peftlit.batch import DataSpec
from peftlit.cli.error_mapping import explain_out_of_memory
from peftlit.data import SST2
from peftlit.modules import SequenceClassification

TRAINER = SimpleNamespace(accumulate_grad_batches=2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_real_failed_allocation_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45, dtype=torch.float64)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("shape", "quantization", "checkpointing", "rows", "length", "advice"),
    [
        ((), None, False, 8, 128, "quantization: nf4-double"),
        ((8, 128), None, False, 8, 128, "gradient_checkpointing: true"),
        ((8, 128), "nf4", True, 8, 128, "batch_size: 4 with trainer.accumulate_grad_batches: 4"),
        ((1, 128), "nf4", True, 1, 128, "max_length: 64"),
        ((1, 32), "nf4", True, 1, 32, "a smaller backbone"),
    ],
)
def test_the_change_most_likely_to_fit(shape, quantization, checkpointing, rows, length, advice) -> None:
    backbone = Backbone("x", quantization=quantization, gradient_checkpointing=checkpointing)
    module = SequenceClassification(backbone, data=DataSpec(label_names=["a", "b"]))
    module.batch_shape = shape
    data = SST2(batch_size=rows, max_length=length)
    line = explain_out_of_memory(MemoryError(), module, data, TRAINER)
    assert line.startswith("out of host memory ")
    assert f"at batch shape {shape[0]} x {shape[1]}" in line if shape else "before the first batch" in line
    assert line.endswith(advice)


def test_the_peak_is_in_mebibytes() -> None:
    assert 100 < peak_mib() < 100_000
