"""Models and data that do not go together: one line, a non-zero exit, an empty folder, and no weights loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftlit.modules import build
from tests import tiny
from tests.cli.test_lightning_cli import DATA, MODEL, contract_one_line_and_nothing_written
from tests.conftest import change, toy_rows
from tests.modules.language_cases import CHAT_TEMPLATE, ONE_TOKEN, TEMPLATE, TWO_TOKENS

CONVERSATION = [{"role": "user", "content": "is the film good ?"}, {"role": "assistant", "content": "very good"}]
KINDS = {"documents": "TextLines", "labelled": "TextFiles", "chats": "ChatFiles"}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, labelled texts, and conversations."""
    folder, rows = tmp_path_factory.mktemp("language-data"), toy_rows(40)
    chats = [{"messages": [{"role": "user", "content": row["text"]}, CONVERSATION[1]]} for row in rows]
    documents = [{"text": row["text"]} for row in rows]
    for kind, content in zip(KINDS, (documents, rows, chats), strict=True):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return folder


@pytest.fixture
def settings_of(language_folder, data_folder):
    """Return a function that makes settings of a model class, a family and a kind of data."""

    def make(model: str, family: str, kind: str) -> dict[str, Any]:
        data: dict[str, Any] = {"train_file": f"{data_folder}/{kind}.jsonl", "max_length": 32, "batch_size": 4}
        if kind == "labelled" and model == "CausalLM":
            data["prompt"] = {"template": TEMPLATE, "label_words": ONE_TOKEN}
        lora = {"class_path": "peft.LoraConfig", "init_args": {"r": 4, "target_modules": tiny.TARGETS[family]}}
        backbone = {"name_or_path": str(language_folder(family))}
        return {
            "model": {"class_path": model, "init_args": {"backbone": backbone, "adapter": lora}},
            "data": {"class_path": KINDS[kind], "init_args": data},
            "trainer": {"accelerator": "cpu", "max_epochs": 1},
        }

    return make


PROMPT = {"class_path": "peft.PromptTuningConfig", "init_args": {"num_virtual_tokens": 4}}
HEAD_TOO = {"class_path": "peft.LoraConfig", "init_args": {"target_modules": ["lm_head"]}}
ALIKE = {"template": TEMPLATE, "label_words": TWO_TOKENS}
BEGIN_ALIKE = {f"{DATA}.prompt": ALIKE, f"{MODEL}.scoring": "first_token"}
THE_SAME = {f"{DATA}.prompt": {"template": TEMPLATE, "label_words": [" xx", " yy"]}}
MASKING = {"class_path": "peftlit.data.masking.Masking", "init_args": {"ratio": 0.3}}
BY_F1 = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/f1", "mode": "max"}}

UNLABELLED = "data: has no labels, and SequenceClassification learns them; use TextFiles, or CausalLM or MaskedLM"
NOTHING = "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"
BAD: list[tuple[str, str, str, dict[str, Any], int, str]] = [
    ("MaskedLM", "llama", "documents", {}, 2, "has no mask token; use CausalLM, or another backbone"),
    ("CausalLM", "bert", "documents", {}, 1,
     "sees the whole text at once and cannot learn to continue one; use MaskedLM"),
    ("CausalLM", "roberta", "labelled", {}, 1, "cannot learn to continue one; use MaskedLM"),
    ("CausalLM", "llama", "labelled", BEGIN_ALIKE, 2,
     "model.scoring: two labels begin with the same token, so first_token cannot tell them apart; set sequence"),
    ("CausalLM", "llama", "labelled", THE_SAME, 2, "so the two cannot be told apart; give one another word"),
    ("CausalLM", "llama", "chats", {}, 2,
     "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"),
    ("MaskedLM", "bert", "chats", {}, 2, "MaskedLM does not learn to answer; use CausalLM, or other data"),
    ("SequenceClassification", "bert", "chats", {}, 2, UNLABELLED),
    ("SequenceClassification", "bert", "documents", {}, 2, UNLABELLED),
    ("CausalLM", "llama", "documents", {f"{MODEL}.adapter": None}, 2, NOTHING),
    ("MaskedLM", "bert", "documents", {f"{MODEL}.adapter": None}, 2, NOTHING),
    ("MaskedLM", "bert", "labelled", {}, 2, "TextFiles has labels, and MaskedLM learns running text; use TextLines"),
    ("MaskedLM", "bert", "documents", {f"{DATA}.packing": True}, 2,
     "data.packing: a masked language model sees the whole row; leave packing out"),
    ("CausalLM", "llama", "documents", {f"{DATA}.masking": MASKING}, 2,
     "data.masking: a causal language model finds every token; leave masking out"),
    ("MaskedLM", "bert", "documents", {f"{MODEL}.adapter": PROMPT}, 1,
     "peft has no PromptTuningConfig for masked language models; choose one that adapts layers"),
    ("CausalLM", "llama", "documents", {f"{MODEL}.adapter": HEAD_TOO}, 1,
     "adapter.target_modules: 'lm_head' names parts of lm_head only, which stays as it is"),
    ("CausalLM", "llama", "labelled", {f"{DATA}.problem_type": "regression"}, 2,
     "data.problem_type: regression cannot be told by a label's likelihood; use SequenceClassification"),
    ("SequenceClassification", "bert", "labelled", {f"{DATA}.prompt": ALIKE}, 2,
     "data.prompt: only a causal language model is asked by a prompt; leave it out"),
    ("CausalLM", "llama", "documents", {f"{DATA}.objective": "masked"}, 2,
     "data.objective: 'masked' is not what the model learns; leave it out"),
    ("CausalLM", "gpt2", "documents", {f"{DATA}.max_length": 65}, 2,
     "data.max_length: got 65, but gpt2 has 64 positions"),
    ("CausalLM", "llama", "documents", {"trainer.callbacks": [BY_F1]}, 2, "val/f1"),
]  # fmt: skip
"""Model class, family, data, what else is set; exit code, and what is said."""


@pytest.fixture
def _no_weights(monkeypatch) -> None:
    monkeypatch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize(("model", "family", "kind", "changes", "code", "message"), BAD)
def test_what_does_not_go_together_is_one_line_before_weights_load(
    model, family, kind, changes, code, message, settings_of, peftlit, write_config, tmp_path
) -> None:
    settings = settings_of(model, family, kind)
    for path, value in changes.items():
        change(settings, path, value)
    result = peftlit("fit", "--config", write_config(settings))
    contract_one_line_and_nothing_written(result, tmp_path, code, message)


@pytest.mark.usefixtures("_no_weights")
def test_a_tokenizer_that_knows_more_tokens_than_the_model_is_refused(
    settings_of, peftlit, write_config, tmp_path
) -> None:
    settings = settings_of("CausalLM", "llama", "documents")
    (tmp_path / "other").mkdir()
    other = tiny.write_model(tmp_path / "other", "llama", vocab_size=40)
    change(settings, f"{MODEL}.backbone.name_or_path", str(other))
    result = peftlit("fit", "--config", write_config(settings))
    said = "but the model 40; tokenizer and backbone do not belong together"
    contract_one_line_and_nothing_written(result, tmp_path, 2, said)


def test_a_chat_template_makes_conversations_good_input(settings_of, peftlit, write_config) -> None:
    settings = settings_of("CausalLM", "llama", "chats")
    change(settings, f"{DATA}.chat_template", CHAT_TEMPLATE)
    change(settings, "trainer.fast_dev_run", 1)
    peftlit.ok("fit", "--config", write_config(settings))
