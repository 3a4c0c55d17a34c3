"""Check that the exported folder works: a fresh process must read the same tokens and give the same answers."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.backbone.architecture import RANDOM_WEIGHTS_SEED, half_dtype
from peftlit.backbone.hardware import is_out_of_memory, says_out_of_memory
from peftlit.batch import Batch
from peftlit.data.cleaning import Cleaner
from peftlit.data.collate import tokenize
from peftlit.errors import PeftlitError, ReloadError, Stopped, first_line
from peftlit.export.base_record import recorded_base
from peftlit.export.load import make_predictor
from peftlit.export.reload_record import write_outcome
from peftlit.files import read_record
from peftlit.modules import CausalLM, PeftModule
from peftlit.modules.metrics import plain
from peftlit.modules.problems import PROBLEM_FILE

log = logging.getLogger(__name__)

SAME_KERNEL_TOLERANCE = {"float": 1e-4, "quantized": 1e-4, "half": 5e-2}
"""Largest difference of a logit, relative to the largest logit (at least 1), by how the backbone is stored.

Half: a plain reload keeps the head in the checkpoint's 16 bits.
"""

ANY_KERNEL_TOLERANCE = {"float": 1e-4, "quantized": 5e-2, "half": 5e-2}
"""The same without a say in kernels: on some CPUs a plain reload of 4-bit weights takes another one than training,
whose bfloat16 arithmetic differs in the third digit.
"""

_OWN_HEAD_TOLERANCE = 1e-4
"""The same for :func:`peftlit.load`, which sets everything up as training did."""

_MARKUP = " Fish &amp; <b>chips</b><br />for  two &lt;br&gt; "
"""What every cleaning step changes."""

_LIMIT_S = 800.0
"""Seconds that a fresh process may take. There may be two, and ranks wait for one another for half an hour."""

_LOAD = """
import importlib, json, sys
from pathlib import Path
from safetensors.torch import save_file
folder, scratch, trust_remote_code, device, head = sys.argv[1:]
importlib.import_module(head)
from peftlit.export.load import load
answerer = load(folder, device=device, trust_remote_code=trust_remote_code == "True")
texts = json.loads(Path(scratch, "raw_texts.json").read_text())
texts = [tuple(text) if isinstance(text, list) else text for text in texts]
save_file(answerer.probe(texts), Path(scratch, "loaded.safetensors"))
"""


def check_reload(
    module: PeftModule,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, str]],
    folder: Path,
    device: torch.device,
) -> float:
    """Check the exported folder, and record in it what came of that, whatever that is.

    Args:
        module: The trained module with the exported weights in it.
        tokenizer: The tokenizer it was trained with.
        texts: Texts, or pairs of texts.
        folder: The exported folder.
        device: Where to compare.

    Returns:
        What :func:`compare_answers` does.

    Raises:
        ReloadError: The check failed, could not be finished, or was stopped by SIGTERM or Ctrl-C.
    """
    try:
        with _stopping_on_sigterm():
            module.to(device)
            difference = plain(compare_answers(module, tokenizer, texts, folder))
            write_outcome(folder, difference=difference)
            return difference
    except BaseException as error:
        reason = _reason(error)
        try:
            write_outcome(folder, reason=reason)
        except OSError as unwritten:
            reason += f"; nor can that be recorded: {first_line(unwritten)}"
        failure = ReloadError(
            f"{folder}: the reload check did not pass: {reason}; the export and all scores are complete, and test, "
            "predict and peftlit.load take them with a warning"
        )
        failure.exit_code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
        raise failure from error


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    if isinstance(error, PeftlitError):
        return str(error)
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)})"
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an error, which ends the fresh process, too."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped("stopped by SIGTERM", number)

    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread listen
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def compare_answers(
    module: PeftModule, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | tuple[str, str]], folder: Path
) -> float:
    """Compare what this process and a fresh one answer to some texts.

    The module is moved to the CPU once it has answered: the fresh process needs its place.

    A head of the Auto class: plain transformers + peft give equal logits. An own head: plain transformers + peft give
    equal hidden states, and :func:`peftlit.load` equal logits. A causal language model: both, and :func:`peftlit.load`
    puts texts to it as training did.

    Args:
        module: The trained module with the exported weights in it.
        tokenizer: The tokenizer it was trained with.
        texts: Texts, or pairs of texts; where the module's texts are cleaned, one is added on which it matters.
        folder: The exported folder.

    Returns:
        The largest absolute difference of a logit; with an own head, of a hidden value or logit.

    Raises:
        ReloadError: The folder cannot be loaded, or answers otherwise.
    """
    assert module.model is not None
    for record, content in module.records().items():
        if read_record(folder / record, ReloadError) != json.loads(json.dumps(content)):
            raise ReloadError(f"{record}: does not hold what the module was trained for")
    base = recorded_base(folder)
    if module.data.cleaning_steps:
        texts = [*texts, _MARKUP if isinstance(texts[0], str) else (_MARKUP, _MARKUP)]
    cleaned = Cleaner(module.data.cleaning_steps or []).clean_all(list(texts))
    batch = tokenize(tokenizer, cleaned)
    prompted = isinstance(module, CausalLM) and module.data.prompt is not None
    trust, device = str(module.backbone.trust_remote_code), str(next(module.parameters()).device)
    more = {k: v for k, v in module.model_inputs(batch).items() if k not in batch}
    with _full_float32():
        expected = module.evaluate_batch(batch) if module.head is None else module.hidden_states(batch)
        ours = {}
        if module.head is not None or prompted:
            ours = make_predictor(module, tokenizer, module.records()[PROBLEM_FILE]).probe(texts)
    module.cpu()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "texts.json").write_text(json.dumps(cleaned), encoding="utf-8")
        (scratch / "raw_texts.json").write_text(json.dumps(list(texts)), encoding="utf-8")
        if more:
            save_file(more, scratch / "more_inputs.safetensors")
        script = Path(__file__).with_name("reload_probe.py").read_text(encoding="utf-8")
        arguments = [str(folder.resolve()), name, str(RANDOM_WEIGHTS_SEED), trust, device, module.auto_class.__name__]
        arguments.append(base or "")
        _run(script, arguments, "plain transformers + peft", scratch)
        answers = load_file(scratch / "answers.safetensors")
        difference = _compare_plain(module, batch, expected, answers)
        if (refused := scratch / "refused_by_kernel.txt").is_file():
            log.warning(
                "plain transformers + peft cannot run this model on a CPU like this one: bitsandbytes' kernel for it "
                "refuses layers of this width (%s); set support_avx512bf16_for_cpu = False on every Linear4bit, as "
                "peftlit does",
                refused.read_text(encoding="utf-8"),
            )
        if ours:
            head = type(module.head).__module__ if module.head is not None else __name__
            arguments = [str(folder.resolve()), name, trust, device, head]
            _run(_LOAD, arguments, "peftlit.load", Path.cwd())
            difference = max(difference, _compare_loaded(ours, load_file(scratch / "loaded.safetensors")))
    same = "the same hidden states, and peftlit.load the same logits" if module.head is not None else "the same"
    same += ", and so does peftlit.load" if prompted else ""
    log.info("a fresh process with plain transformers + peft answers %s (within %.1e)", same, difference)
    return difference


def _run(script: str, arguments: list[str], what: str, cwd: Path) -> None:
    try:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise ReloadError(f"{what} did not answer within {_LIMIT_S:.0f} seconds") from error
    if done.returncode == 0:
        return
    raised = re.findall(r"^[\w.]*(?:Error|Exception): .*$", done.stderr, re.MULTILINE)
    said = raised[-1] if raised else (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode < 0:
        said = f"ended by {signal.Signals(-done.returncode).name}"
    if done.returncode == -signal.SIGKILL or says_out_of_memory(said):
        raise ReloadError(f"out of memory in the fresh process with {what} ({said})")
    raise ReloadError(f"{what} cannot load what was exported: {said}")


def _compare_plain(module: PeftModule, batch: Batch, expected: Tensor, answers: dict[str, Tensor]) -> float:
    """Compare tokens, then what plain transformers + peft gave."""
    tokens = {k.removeprefix("input."): v for k, v in answers.items() if k.startswith("input.")}
    ours: dict[str, Any] = dict(batch)
    if tokens.keys() != ours.keys() or any(not torch.equal(tokens[k], ours[k]) for k in ours):
        raise ReloadError("the exported tokenizer cuts the same texts into other tokens than training did")
    what, storage, kernels = "logits", _storage(module), [k for k in ("same_kernel", "any_kernel") if k in answers]
    if module.head is not None:  # what stands at padding is nobody's
        what, shown = "hidden states", batch["attention_mask"].bool()
        expected = expected[shown]
        answers = {name: answers[name][shown] for name in kernels}
    tolerances = {"same_kernel": SAME_KERNEL_TOLERANCE[storage], "any_kernel": ANY_KERNEL_TOLERANCE[storage]}
    return [_compare(expected, answers[name], tolerances[name], what) for name in kernels][-1]


def _compare_loaded(ours: dict[str, Tensor], loaded: dict[str, Tensor]) -> float:
    """Compare how texts are put to the model, then what it answers."""
    fed = ours.keys() - {"logits"}
    if loaded.keys() != ours.keys() or any(not torch.equal(ours[name], loaded[name]) for name in fed):
        raise ReloadError("reloaded, it puts the same texts to the model otherwise than training did")
    return _compare(ours["logits"], loaded["logits"], _OWN_HEAD_TOLERANCE, "logits")


def _compare(expected: Tensor, answered: Tensor, tolerance: float, what: str) -> float:
    if answered.shape != expected.shape:
        raise ReloadError(f"reloaded, its {what} have the shape {tuple(answered.shape)}, not {tuple(expected.shape)}")
    difference = float((answered - expected).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ReloadError(
            f"reloaded in a fresh process, its {what} differ by {difference:.2g} (allowed {allowed:.2g}); do not "
            "publish it"
        )
    return difference


def _storage(module: PeftModule) -> str:
    """Say which tolerance holds."""
    assert module.model is not None
    if half_dtype(module.model) is not None:
        return "half"
    return "quantized" if module.backbone.quantization is not None else "float"


@contextmanager
def _full_float32() -> Iterator[None]:
    """Multiply in full float32, as a fresh process does."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
