"""Prove that the exported folder works: a fresh process with plain transformers + peft must answer the same."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftlit.architecture import RANDOM_WEIGHTS_SEED, half_dtype
from peftlit.batch import Batch
from peftlit.errors import ReloadError
from peftlit.modules.base import PeftModule

log = logging.getLogger(__name__)

SAME_KERNEL_TOLERANCE = {"float": 1e-4, "quantized": 1e-4, "half": 5e-2}
"""Largest difference of a logit, relative to the largest logit (at least 1), by how the backbone is stored.

Half: a plain reload keeps the head in the checkpoint's 16 bits.
"""

ANY_KERNEL_TOLERANCE = {"float": 1e-4, "quantized": 5e-2, "half": 5e-2}
"""The same without a say in kernels: on some CPUs a plain reload of 4-bit weights takes another one than training,
whose bfloat16 arithmetic differs in the third digit.
"""


def prove_reload(module: PeftModule, probe: Batch, folder: Path) -> float:
    """Compare the logits of a probe batch between this process and a fresh one.

    Args:
        module: The trained module with the exported weights in it.
        probe: A batch of rows, on the CPU.
        folder: The exported folder.

    Returns:
        The largest absolute difference of a logit.

    Raises:
        ReloadError: The folder cannot be loaded, or answers otherwise.
    """
    assert module.model is not None
    with _full_float32():
        expected = module.evaluate_batch(probe)
    storage, dtype = _storage(module)
    inputs = {f"input.{k}": v for k, v in module.model_inputs(probe).items()}
    script = Path(__file__).with_name("reload_probe.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "probe.safetensors")
        save_file(inputs, file)
        arguments = [
            str(folder.resolve()), str(file), str(RANDOM_WEIGHTS_SEED), str(module.backbone.trust_remote_code),
            str(next(module.model.parameters()).device),
            dtype, module.auto_class.__name__,
        ]  # fmt: skip
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # the other process needs room
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=scratch)
        if done.returncode != 0:
            raised = re.findall(r"^[\w.]*(?:Error|Exception): .*$", done.stderr, re.MULTILINE)
            said = raised[-1] if raised else (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ReloadError(f"{folder}: plain transformers + peft cannot load what was exported: {said}")
        answers = load_file(file)
    _compare(expected, answers["logits_same_kernel"], SAME_KERNEL_TOLERANCE[storage], folder)
    difference = _compare(expected, answers["logits"], ANY_KERNEL_TOLERANCE[storage], folder)
    log.info("a fresh process with plain transformers + peft answers the same (logits within %.1e)", difference)
    return difference


def _compare(expected: Tensor, answered: Tensor, tolerance: float, folder: Path) -> float:
    if answered.shape != expected.shape:
        raise ReloadError(
            f"{folder}: reloaded, it answers with shape {tuple(answered.shape)}, not {tuple(expected.shape)}"
        )
    difference = float((answered - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ReloadError(
            f"{folder}: reloaded in a fresh process, its logits differ by {difference:.2g} (allowed {allowed:.2g}); "
            "the export is kept for inspection, do not publish it"
        )
    return difference


def _storage(module: PeftModule) -> tuple[str, str]:
    """Say which tolerance holds, and in which dtype the backbone's unquantized weights are stored."""
    assert module.model is not None
    half = half_dtype(module.model)
    if half is not None:
        return "half", str(half).removeprefix("torch.")
    return "quantized" if module.backbone.quantization is not None else "float", "float32"


@contextmanager
def _full_float32() -> Iterator[None]:
    """Multiply in full float32, as a fresh process does."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
