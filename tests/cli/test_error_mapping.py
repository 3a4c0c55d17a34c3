"""Errors in one line: of real data loader workers, which end, break the connection, or raise; and of memory."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from peftlit.backbone import Backbone
from peftlit.batch import DataSpec
from peftlit.cli.error_mapping import explain_out_of_memory, map_errors
from peftlit.data import SST2
from peftlit.errors import ProcessError
from peftlit.modules import SequenceClassification

ADVICE = "set fewer data.num_workers where memory ran out, 0 to see its own error; then resume with --ckpt_path last"


class _Broken:
    """What the main process cannot read to its end, as where a worker closes the connection."""

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _read_from_a_closed_connection, ()


def _read_from_a_closed_connection() -> Any:
    here, there = Pipe()
    there.close()
    return here.recv()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)


def _raise() -> None:
    raise RuntimeError("Connection reset by peer")


def _load(get: Callable[[], Any], workers: int = 1) -> None:
    trainer, folder = SimpleNamespace(), SimpleNamespace(path="run")
    with map_errors(None, None, trainer, folder):
        next(iter(DataLoader([0], batch_size=None, num_workers=workers, collate_fn=lambda _: get())))


@pytest.mark.parametrize(
    ("get", "said"),
    [
        (_kill, rf"worker ended \((killed by signal: Killed|exited unexpectedly)\); {ADVICE}"),
        (_exit, rf"worker ended \(exited unexpectedly.*\); {ADVICE}"),
        (_Broken, r"the connection to a data loader worker broke \(EOFError: EOFError\); set fewer data.num_workers"),
    ],
)
def test_a_worker_that_is_gone_is_told_as_such(get, said) -> None:
    with pytest.raises(ProcessError, match=said) as caught:
        _load(get)
    assert "\n" not in str(caught.value)


def test_another_error_of_the_data_is_told_as_that_error() -> None:
    with pytest.raises(RuntimeError, match=r"^Caught RuntimeError in DataLoader worker process 0(.|\n)*reset by peer"):
        _load(_raise)
    with pytest.raises(EOFError):
        _load(_read_from_a_closed_connection, workers=0)


@pytest.mark.parametrize(
    ("shape", "quantization", "checkpointing", "advice"),
    [
        ((), None, False, "quantization: nf4-double"),
        ((8, 128), None, False, "gradient_checkpointing: true"),
        ((8, 128), "nf4", True, "batch_size: 4 with trainer.accumulate_grad_batches: 4"),
        ((1, 128), "nf4", True, "max_length: 64"),
        ((1, 32), "nf4", True, "a smaller backbone"),
    ],
)
def test_out_of_memory_names_what_is_most_likely_to_fit(shape, quantization, checkpointing, advice) -> None:
    backbone = Backbone("x", quantization=quantization, gradient_checkpointing=checkpointing)
    module = SequenceClassification(backbone, data=DataSpec(label_names=["a", "b"]))
    module.batch_shape = shape
    rows, length = shape or (8, 128)
    data, trainer = SST2(batch_size=rows, max_length=length), SimpleNamespace(accumulate_grad_batches=2)
    line = explain_out_of_memory(MemoryError(), module, data, trainer)
    assert line.startswith("out of host memory ")
    assert f"at batch shape {rows} x {length}" in line if shape else "before the first batch" in line
    assert line.endswith(advice)
