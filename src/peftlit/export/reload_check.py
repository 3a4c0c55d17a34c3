"""Reload check: in a fresh process the exported folder must read the same tokens and give the same answers."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.backbone.architecture import RANDOM_WEIGHTS_SEED, half_dtype
from peftlit.backbone.hardware import is_out_of_memory
from peftlit.batch import Batch
from peftlit.data.cleaning import Cleaner
from peftlit.data.collate import tokenize
from peftlit.data.prompt import Text
from peftlit.errors import PeftlitError, ReloadError, first_line
from peftlit.export.fresh_process import run_in_fresh_process, stopping_on_sigterm
from peftlit.export.load import make_predictor
from peftlit.export.records import recorded_base, write_reload_check
from peftlit.files import read_record
from peftlit.modules import CausalLM, PeftModule
from peftlit.modules.metrics import plain
from peftlit.modules.problems import PROBLEM_FILE

log = logging.getLogger(__name__)

TOLERANCES = {
    "float": {"same_kernel": 1e-4, "any_kernel": 1e-4},
    "quantized": {"same_kernel": 1e-4, "any_kernel": 5e-2},
    "half": {"same_kernel": 5e-2, "any_kernel": 5e-2},
}
"""Largest difference of a logit, relative to the largest logit (at least 1), by how the backbone is stored.

Half: a plain reload keeps the head in the checkpoint's 16 bits. Quantized, any kernel: on some CPUs a plain reload of
4-bit weights takes another kernel than training, whose bfloat16 arithmetic differs in the third digit.
"""

_LOAD_TOLERANCE = 1e-4
"""The same for :func:`peftlit.load`, which sets everything up as training did."""

_MARKUP = " Fish &amp; <b>chips</b><br />for  two &lt;br&gt; "
"""What every cleaning step changes."""

_PLAIN_PROBE = Path(__file__).with_name("reload_probe.py")
_LOAD_PROBE = """
import importlib, json, sys
from pathlib import Path
from safetensors.torch import save_file
folder, scratch = sys.argv[1:]
question = json.loads(Path(scratch, "question.json").read_text())
importlib.import_module(question["head_module"])
from peftlit.export.load import load
predictor = load(folder, device=question["device"], trust_remote_code=question["trust_remote_code"])
texts = [tuple(text) if isinstance(text, list) else text for text in question["raw_texts"]]
save_file(predictor.probe(texts), Path(scratch, "loaded.safetensors"))
"""


def check_reload(
    module: PeftModule, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], folder: Path, device: torch.device
) -> float:
    """Check the exported folder on a device, and record in it how the check ended, however it ends.

    Returns:
        The largest difference, as :func:`compare_answers` gives it.

    Raises:
        ReloadError: The check failed, could not be finished, or was stopped by SIGTERM or Ctrl-C.
    """
    try:
        with stopping_on_sigterm():
            module.to(device)
            difference = plain(compare_answers(module, tokenizer, texts, folder))
            write_reload_check(folder, difference=difference)
            return difference
    except BaseException as error:
        reason = _reason(error)
        try:
            write_reload_check(folder, failure=reason)
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


def compare_answers(
    module: PeftModule, tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], folder: Path
) -> float:
    """Compare the answers of this process and of fresh ones. The module ends on the CPU, to make room for theirs.

    Plain transformers + peft must give the same logits; under an own head the same hidden states. With an own head or
    a prompt, :func:`peftlit.load` must feed the model the same and give the same logits.

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
    for record, content in module.records().items():
        if read_record(folder / record, ReloadError) != json.loads(json.dumps(content)):
            raise ReloadError(f"{record}: does not hold what the module was trained for")
    if module.data.cleaning_steps:
        texts = [*texts, _MARKUP if isinstance(texts[0], str) else (_MARKUP, _MARKUP)]
    cleaned = Cleaner(module.data.cleaning_steps or []).clean_all(list(texts))
    batch = tokenize(tokenizer, cleaned)
    question = {
        "texts": cleaned,
        "raw_texts": list(texts),
        "base": recorded_base(folder),
        "seed": RANDOM_WEIGHTS_SEED,
        "auto_class": module.auto_class.__name__,
        "head_module": type(module.head).__module__,
        "trust_remote_code": module.backbone.trust_remote_code,
        "device": str(next(module.parameters()).device),
    }
    own_head, prompted = module.head is not None, isinstance(module, CausalLM) and module.data.prompt is not None
    probed = {}
    with _full_float32():
        expected = module.hidden_states(batch) if own_head else module.evaluate_batch(batch)
        if own_head or prompted:
            probed = make_predictor(module, tokenizer, module.records()[PROBLEM_FILE]).probe(texts)
    module.cpu()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with tempfile.TemporaryDirectory() as name:
        scratch, arguments = Path(name), [str(folder.resolve()), name]
        (scratch / "question.json").write_text(json.dumps(question), encoding="utf-8")
        save_file({k: v for k, v in module.model_inputs(batch).items() if k not in batch}, scratch / "more.safetensors")
        run_in_fresh_process(_PLAIN_PROBE.read_text("utf-8"), arguments, "plain transformers + peft", scratch)
        difference = _compare_plain(module, batch, expected, load_file(scratch / "answers.safetensors"))
        if (refused := scratch / "refused_by_kernel.txt").is_file():
            log.warning(
                "plain transformers + peft cannot run this model on a CPU like this one: bitsandbytes' kernel for it "
                "refuses layers of this width (%s); set support_avx512bf16_for_cpu = False on every Linear4bit, as "
                "peftlit does",
                refused.read_text(encoding="utf-8"),
            )
        if probed:
            run_in_fresh_process(_LOAD_PROBE, arguments, "peftlit.load", Path.cwd())
            difference = max(difference, _compare_loaded(probed, load_file(scratch / "loaded.safetensors")))
    same = "the same hidden states, and peftlit.load the same logits" if own_head else "the same"
    same += ", and so does peftlit.load" if prompted else ""
    log.info("reload check: plain transformers + peft in a fresh process answers %s (within %.1e)", same, difference)
    return difference


def _compare_plain(module: PeftModule, batch: Batch, expected: Tensor, answers: dict[str, Tensor]) -> float:
    """Compare tokens, then what plain transformers + peft gave by each kernel; return the last difference."""
    tokens = {k.removeprefix("input."): v for k, v in answers.items() if k.startswith("input.")}
    ours: dict[str, Any] = dict(batch)
    if tokens.keys() != ours.keys() or any(not torch.equal(tokens[k], ours[k]) for k in ours):
        raise ReloadError("the exported tokenizer tokenizes the same texts differently than in training")
    assert module.model is not None
    quantized = module.backbone.quantization is not None
    storage = "half" if half_dtype(module.model) is not None else "quantized" if quantized else "float"
    what, difference = "logits", 0.0
    counted: Any = slice(None)
    if module.head is not None:  # hidden states at padding mean nothing
        what, counted = "hidden states", batch["attention_mask"].bool()
    for kernel, tolerance in TOLERANCES[storage].items():
        if kernel in answers:
            difference = _compare(expected[counted], answers[kernel][counted], tolerance, what)
    return difference


def _compare_loaded(ours: dict[str, Tensor], loaded: dict[str, Tensor]) -> float:
    """Compare what the model is fed, then what it answers."""
    inputs = ours.keys() - {"logits"}
    if loaded.keys() != ours.keys() or any(not torch.equal(ours[name], loaded[name]) for name in inputs):
        raise ReloadError("reloaded, it feeds the model other inputs for the same texts than in training")
    return _compare(ours["logits"], loaded["logits"], _LOAD_TOLERANCE, "logits")


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


@contextmanager
def _full_float32() -> Iterator[None]:
    """Multiply in full float32, as a fresh process does."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
