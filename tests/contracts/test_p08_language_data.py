"""P8 for language models: what is wrong with texts and conversations is one line before weights load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peftlit.data.samples import SampleReader
from tests import tiny
from tests.conftest import errors_of
from tests.contracts.test_p08_checks import without_weights
from tests.contracts.test_p11_templates import NOTHING
from tests.data.helpers import write_jsonl
from tests.data.language_data import TEMPLATE, documents, turns, write_lines

GOOD = [{"prompt": f"it {i}", "completion": " is"} for i in range(30)]
TALKS = [{"messages": turns(f"it {i}", "is")} for i in range(30)]
LABELLED = [{"text": f"it {i}", "label": ["bad", "good"][i % 2]} for i in range(30)]
LONG = [{"prompt": f"{'film ' * 80} {i}", "completion": " is"} for i in range(9)]

CASES: dict[str, tuple[str, str, Any, dict[str, str], str]] = {
    "bytes": ("CausalLM", "TextLines", b"one\ncaf\xe9\n", {}, "{file}, line 2: byte 0xe9 is not UTF-8"),
    "blank": ("CausalLM", "TextLines", b"\n \n", {}, "{file}: no documents"),
    "one line": ("CausalLM", "TextLines", b"one", {}, "{file}: validation_share of 1 rows gives not one row"),
    "bad row": ("CausalLM", "ChatFiles", [*GOOD, {"prompt": None, "completion": "a"}], {}, "{file}, row 31: prompt is"),
    "long prompt": ("CausalLM", "ChatFiles", [*GOOD, *LONG], {}, "{file}, row 31: the prompt alone is longer"),
    "in processes": ("CausalLM", "ChatFiles", [*GOOD, *LONG], {"num_proc": "2"}, "{file}, row 31: the prompt alone"),
    "no completion": (
        "CausalLM", "ChatFiles", [{**row, "completion": ""} for row in GOOD], {},
        "{file}, row 1: the completion is empty",
    ),
    "no template": ("CausalLM", "ChatFiles", TALKS, {}, "data.chat_template: the tokenizer has no chat template"),
    "odd template": ("CausalLM", "ChatFiles", TALKS, {"chat_template": "{% for"},
                     "command line: data.chat_template: not valid in"),
    "mute template": ("CausalLM", "ChatFiles", TALKS, {"chat_template": NOTHING}, "{file}, row 1: the chat template"),
    "mixed": (
        "CausalLM", "ChatFiles", [*GOOD, {"prompt": turns("a"), "completion": turns("", "b")[1:]}],
        {"chat_template": TEMPLATE}, "{file}, row 31: a conversation, and the first training row is a text",
    ),
    "masked causal": ("MaskedLM", "TextLines", documents(30), {}, "data.tokenizer: '{model}' has no mask token"),
    "masked answers": ("MaskedLM", "ChatFiles", GOOD, {}, "data: MaskedLM does not learn to answer"),
    "masked labels": ("MaskedLM", "TextFiles", LABELLED, {}, "data: TextFiles has labels, and MaskedLM learns running"),
    "masking": ("CausalLM", "TextLines", documents(30), {"masking.ratio": "0.2"}, "data.masking: a causal language"),
    "objective": ("CausalLM", "TextLines", documents(30), {"objective": "masked"},
                  "command line: data.objective: 'masked' is not"),
}  # fmt: skip


@pytest.fixture
def model(tmp_path, model_folder) -> Path:
    """A model folder that has lost its weights."""
    return without_weights(model_folder("llama"), tmp_path / "llama")


def contract_told_before_weights(peftlit: Any, model: Path, folder: Path, case: str) -> None:
    """The command ends in one line that names the place; there is no run, and the weights were not missed."""
    task, data, content, settings, said = CASES[case]
    file = folder / ("train.txt" if data == "TextLines" else "train.jsonl")
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        (write_lines if data == "TextLines" else write_jsonl)(file, content)
    more = [part for name, value in settings.items() for part in (f"--data.{name}", value)]
    code, _, err = peftlit(
        "fit", "--model", task, "--model.backbone.name_or_path", model, "--model.adapter", "peft.LoraConfig",
        "--model.adapter.target_modules", f"[{tiny.TARGETS['llama'][0]}]", "--data", data, "--data.train_file", file,
        "--data.max_length", 64, "--trainer.accelerator", "cpu", "--run_dir", folder / "run", *more,
    )  # fmt: skip
    assert code in (1, 2)
    (line,) = errors_of(err)
    place = said.replace("{file}", str(file)).replace("{model}", str(model))
    assert line.startswith(f"peftlit: error: {place}")
    assert not (folder / "run").exists()


@pytest.mark.parametrize("case", CASES)
def test_p08_what_is_wrong_with_language_data_is_told_before_weights_load(case, peftlit, model, tmp_path):
    contract_told_before_weights(peftlit, model, tmp_path, case)


def test_p08_breaker_lines_that_replace_what_they_cannot_read(peftlit, model, tmp_path, monkeypatch):
    def replacing(path: Any) -> Any:
        return iter(Path(path).read_text(encoding="utf-8", errors="replace").splitlines())

    monkeypatch.setattr("peftlit.data.datasets.text_lines.iterate_lines", replacing)
    with pytest.raises(AssertionError):
        contract_told_before_weights(peftlit, model, tmp_path, "bytes")


def test_p08_breaker_rows_taken_without_a_look(peftlit, model, tmp_path, monkeypatch):
    monkeypatch.setattr(SampleReader, "_check_kind", lambda *_: None)
    with pytest.raises(AssertionError):
        contract_told_before_weights(peftlit, model, tmp_path, "mixed")
