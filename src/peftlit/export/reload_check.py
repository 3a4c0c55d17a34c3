"""Reload check: in a fresh process the exported folder must read the same tokens and give the same answers."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.adapters.half_base import rounded_as_reloaded
from peftlit.backbone.architecture import RANDOM_WEIGHTS_SEED
from peftlit.backbone.hardware import is_out_of_memory
from peftlit.batch import Batch
from peftlit.data.collate import tokenize
from peftlit.data.messages import Question
from peftlit.errors import PeftlitError, ReloadError, first_line
from peftlit.export.drift import Drift, measure_drift, real
from peftlit.export.fresh_process import run_in_fresh_process, stopping_on_sigterm
from peftlit.export.load import make_predictor
from peftlit.export.records import recorded_base, write_reload_check
from peftlit.files import read_record
from peftlit.modules import CausalLM, PeftModule
from peftlit.modules.metrics import plain
from peftlit.modules.problems import PROBLEM_FILE

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit (at least 1). Both sides compute alike: by the kernel of
training, without autocast, in the dtypes of a plain reload. What is left is rounding; over real models it was 0."""

NOTICEABLE = 0.01
"""Share of labels or likeliest tokens that may change, as anyone reloads the export, before it is a warning."""

_MARKUP = " Fish &amp; <b>chips</b><br />for  two &lt;br&gt; "
"""What every cleaning step changes."""

_PLAIN_PROBE = Path(__file__).with_name("reload_probe.py")
_LOAD_PROBE = """
# in the same process behind the other: it knows folder, scratch and question
import gc, importlib, os
model = module = repacking = inputs = answers = None
gc.collect()
os.chdir(question["cwd"])  # where a head of the user's own may be
importlib.import_module(question["head_module"])
predictor = importlib.import_module("peftlit.export.load").load(
    folder, device=question["device"], trust_remote_code=question["trust_remote_code"]
)
pairs_or_not = [tuple(q) if isinstance(q, list) and isinstance(q[0], str) else q for q in question["questions"]]
save_file(predictor.probe(pairs_or_not), scratch / "loaded.safetensors")
"""
_PLAIN, _OURS = "plain transformers + peft", "peftlit.load"


class Reload(NamedTuple):
    """What the reload check found.

    Attributes:
        difference: The largest absolute difference of a logit (own head: of a hidden value or logit), computed alike.
        drift: How answers change for anyone who reloads the export; None for numbers.
    """

    difference: float
    drift: Drift | None


def check_reload(
    module: PeftModule,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    folder: Path,
    device: torch.device,
) -> Reload:
    """Check the exported folder on a device, and record in it how the check ended, however it ends.

    Raises:
        ReloadError: The check failed, could not be finished, or was stopped by SIGTERM or Ctrl-C.
    """
    try:
        with stopping_on_sigterm():
            module.to(device)
            found = compare_answers(module, tokenizer, questions, folder)
            write_reload_check(folder, difference=found.difference, drift=found.drift)
            return found
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
    module: PeftModule, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], folder: Path
) -> Reload:
    """Compare the answers of this process and of a fresh one. The module ends on the CPU, to make room for the other.

    The export is exact if its records and trained weights are those of the module, plain transformers + peft give the
    same logits (under an own head the same hidden states), and, with an own head or a prompt, :func:`peftlit.load`
    feeds the model the same and gives the same logits. How answers drift as anyone reloads the export (another kernel
    for 4-bit weights on some CPUs, heads rounded to the backbone's 16 bits) is measured, and no failure.

    Args:
        module: The trained module with the exported weights in it.
        tokenizer: The tokenizer it was trained with.
        questions: Rows of the data; where the module's texts are cleaned, one is added on which it matters.
        folder: The exported folder.

    Raises:
        ReloadError: The folder cannot be loaded, or is not exact.
    """
    for record, content in module.records().items():
        if read_record(folder / record, ReloadError) != json.loads(json.dumps(content)):
            raise ReloadError(f"{record}: does not hold what the module was trained for")
    assert module.model is not None
    predictor = make_predictor(module, tokenizer, module.records()[PROBLEM_FILE])
    asked = list(questions)
    if module.data.cleaning_steps:
        asked.append(_MARKUP if not isinstance(asked[0], tuple) else (_MARKUP, _MARKUP))
    own_head, prompted = module.head is not None, isinstance(module, CausalLM) and module.data.prompt is not None
    texts = predictor.texts(asked)
    batch = tokenize(tokenizer, texts)
    forward = module.hidden_states if own_head else module.evaluate_batch
    probed = {}
    with _full_float32():
        answered = forward(batch)
        with rounded_as_reloaded(module.method.base_model(module.model)):
            expected = forward(batch)
        if own_head or prompted:
            probed = predictor.probe(asked)
    question = {
        "texts": texts,
        "questions": asked if probed else [],
        "base": recorded_base(folder),
        "seed": RANDOM_WEIGHTS_SEED,
        "auto_class": module.auto_class.__name__,
        "head_module": type(module.head).__module__,
        "trust_remote_code": module.backbone.trust_remote_code,
        "device": str(next(module.parameters()).device),
        "cwd": str(Path.cwd()),
    }
    module.cpu()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trained = {k: v.detach().cpu().clone() for k, v in module.method.trained_tensors(module.model).items()}
    more = {k: v for k, v in module.model_inputs(batch).items() if k not in batch}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "question.json").write_text(json.dumps(question), encoding="utf-8")
        save_file(more, scratch / "more.safetensors")
        save_file(trained, scratch / "trained.safetensors")
        _ask_fresh_process(folder, scratch, _LOAD_PROBE if probed else "")
        answers = load_file(scratch / "answers.safetensors")
        loaded = load_file(scratch / "loaded.safetensors") if probed else {}
        lost = json.loads((scratch / "lost.json").read_text(encoding="utf-8"))
    if lost:
        raise ReloadError(
            f"reloaded, {len(lost)} of its {len(trained)} trained tensors are not what was trained, such as {lost[0]}; "
            "do not publish it"
        )
    difference = _compare_plain(module, batch, expected, answers)
    if probed:
        difference = max(difference, _compare_loaded(probed, loaded))
    drift = _drift(module, batch, answered, answers)
    same = "the same hidden states" if own_head else "the same"
    same += f", and {_OURS} the same logits" if probed else ""
    log.info("reload check: %s in a fresh process answers %s (within %.1e)", _PLAIN, same, difference)
    _tell(drift)
    return Reload(plain(difference), drift)


def _ask_fresh_process(folder: Path, scratch: Path, more: str) -> None:
    """Answer with plain transformers + peft in a fresh process, and run more there."""
    script = _PLAIN_PROBE.read_text(encoding="utf-8") + more
    try:
        run_in_fresh_process(script, [str(folder.resolve()), str(scratch)], scratch)
    except ReloadError as error:
        what = _OURS if (scratch / "answers.safetensors").is_file() else _PLAIN
        raise ReloadError(f"{what}: {error}") from error
    if (refused := scratch / "refused_by_kernel.txt").is_file():
        log.warning(
            "plain transformers + peft cannot run this model on a CPU like this one: bitsandbytes' kernel for it "
            "refuses layers of this width (%s); set support_avx512bf16_for_cpu = False on every Linear4bit, as "
            "peftlit does",
            refused.read_text(encoding="utf-8"),
        )


def _compare_plain(module: PeftModule, batch: Batch, expected: Tensor, answers: dict[str, Tensor]) -> float:
    """Compare tokens, then what plain transformers + peft answered by the kernel of training."""
    tokens = {k.removeprefix("input."): v for k, v in answers.items() if k.startswith("input.")}
    ours: dict[str, Any] = dict(batch)
    if tokens.keys() != ours.keys() or any(not torch.equal(tokens[k], ours[k]) for k in ours):
        raise ReloadError("the exported tokenizer tokenizes the same texts differently than in training")
    what = "logits" if module.head is None else "hidden states"
    return _compare(real(expected, batch), real(answers["same_kernel"], batch), what)


def _compare_loaded(ours: dict[str, Tensor], loaded: dict[str, Tensor]) -> float:
    """Compare what the model is fed, then what it answers."""
    inputs = ours.keys() - {"logits"}
    if loaded.keys() != ours.keys() or any(not torch.equal(ours[name], loaded[name]) for name in inputs):
        raise ReloadError("reloaded, it feeds the model other inputs for the same texts than in training")
    batch: Any = {name: ours[name] for name in inputs}
    return _compare(real(ours["logits"], batch), real(loaded["logits"], batch), "logits")


def _compare(expected: Tensor, answered: Tensor, what: str) -> float:
    if answered.shape != expected.shape:
        raise ReloadError(f"reloaded, its {what} have the shape {tuple(answered.shape)}, not {tuple(expected.shape)}")
    difference = float((answered - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ReloadError(
            f"reloaded in a fresh process, its {what} differ by {difference:.2g} (allowed {allowed:.2g}); do not "
            "publish it"
        )
    return difference


def _drift(module: PeftModule, batch: Batch, answered: Tensor, answers: dict[str, Tensor]) -> Drift | None:
    """Compare the module's answers with those of anyone who reloads the export; None where nobody can run it so."""
    reloaded = answers.get("any_kernel")
    if reloaded is None:
        return None
    if module.head is not None:  # plain transformers has none: put ours on top of both
        module.eval()
        with torch.inference_mode():
            answered, reloaded = (module.head(hidden, batch["attention_mask"]) for hidden in (answered, reloaded))
    return measure_drift(module.problem if answered.ndim == 2 else None, real(answered, batch), real(reloaded, batch))


def _tell(drift: Drift | None) -> None:
    if drift is None or not drift.largest:
        return
    warn = drift.changed > NOTICEABLE
    log.log(
        logging.WARNING if warn else logging.INFO,
        "reloaded as anyone does it on this machine, %.2f %% of %d answers are others (mean KL divergence %.1e)%s",
        *(100 * drift.changed, drift.compared, drift.kl),
        ": its kernels, or heads in 16 bits, round more than those of training" * warn,
    )


@contextmanager
def _full_float32() -> Iterator[None]:
    """Multiply in full float32, as a fresh process does."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
