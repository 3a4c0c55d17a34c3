"""Models and data that do not go together: one line, a non-zero exit, an empty folder, and no weights loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftlit.modules import build
from tests import tiny
from tests.cli.test_lightning_cli import change, contract_one_line_and_nothing_written
from tests.conftest import toy_rows
from tests.modules.language_cases import CHAT_TEMPLATE, ONE_TOKEN, TEMPLATE, TWO_TOKENS

MODEL, DATA = "model.init_args", "data.init_args"
CONVERSATION = [{"role": "user", "content": "is the film good ?"}, {"role": "assistant", "content": "very good"}]


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, labelled texts, and conversations."""
    folder, rows = tmp_path_factory.mktemp("language-data"), toy_rows(40)
    (folder / "documents.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    (folder / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chats = [[{"role": "user", "content": row["text"]}, CONVERSATION[1]] for row in rows]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return folder


@pytest.fixture
def settings_of(language_folder, data_folder):
    """Return a function that makes settings of a model class, a family and a kind of data."""

    def make(model: str, family: str, kind: str) -> dict[str, Any]:
        prompt = {"template": TEMPLATE, "label_words": ONE_TOKEN}
        data: dict[str, Any] = {
            "documents": {"class_path": "TextLines", "init_args": {"train_file": f"{data_folder}/documents.txt"}},
            "labelled": {"class_path": "TextFiles", "init_args": {"train_file": f"{data_folder}/labelled.jsonl"}},
            "chats": {"class_path": "ChatFiles", "init_args": {"train_file": f"{data_folder}/chats.jsonl"}},
        }[kind]
        data["init_args"] |= {"max_length": 32, "batch_size": 4}
        if kind == "labelled" and model == "CausalLM":
            data["init_args"]["prompt"] = prompt
        targets = {"r": 4, "target_modules": tiny.TARGETS[family]}
        return {
            "model": {
                "class_path": model,
                "init_args": {
                    "backbone": {"name_or_path": str(language_folder(family))},
                    "adapter": {"class_path": "peft.LoraConfig", "init_args": targets},
                },
            },
            "data": data,
            "trainer": {"accelerator": "cpu", "max_epochs": 1},
        }

    return make


PROMPT = {"class_path": "peft.PromptTuningConfig", "init_args": {"num_virtual_tokens": 4}}
HEAD_TOO = {"class_path": "peft.LoraConfig", "init_args": {"target_modules": ["lm_head"]}}
ALIKE = {"template": TEMPLATE, "label_words": TWO_TOKENS}
MASKING = {"class_path": "peftlit.data.masking.Masking", "init_args": {"ratio": 0.3}}

UNLABELLED = "has no labels, and SequenceClassification learns them; use TextFiles, or CausalLM or MaskedLM"
BAD: dict[str, tuple[str, str, str, dict[str, Any], int, str]] = {
    "MaskedLM on a causal backbone": (
        "MaskedLM", "llama", "documents", {}, 2, "has no mask token; use CausalLM, or another backbone"
    ),
    "CausalLM on a backbone that reads both ways": (
        "CausalLM", "bert", "documents", {}, 1, "sees the whole text at once and cannot learn to continue one; use Mask"
    ),
    "CausalLM with labels on a backbone that reads both ways": (
        "CausalLM", "roberta", "labelled", {}, 1, "cannot learn to continue one; use MaskedLM"
    ),
    "labels that begin alike under first_token": (
        "CausalLM", "llama", "labelled", {f"{DATA}.prompt": ALIKE, f"{MODEL}.scoring": "first_token"}, 2,
        "model.scoring: two labels begin with the same token, so first_token cannot tell them apart; set sequence"
    ),
    "label words that are the same to the tokenizer": (
        "CausalLM", "llama", "labelled", {f"{DATA}.prompt": {"template": TEMPLATE, "label_words": [" xx", " yy"]}}, 2,
        "so the two cannot be told apart; give one another word"
    ),
    "conversations without a template": (
        "CausalLM", "llama", "chats", {}, 2,
        "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"
    ),
    "conversations under MaskedLM": (
        "MaskedLM", "bert", "chats", {}, 2, "MaskedLM does not learn to answer; use CausalLM, or other data"
    ),
    "conversations under SequenceClassification": (
        "SequenceClassification", "bert", "chats", {}, 2, f"data: {UNLABELLED}"
    ),
    "no adapter beside a pretrained head": (
        "CausalLM", "llama", "documents", {f"{MODEL}.adapter": None}, 2,
        "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"
    ),
    "no adapter beside a pretrained head of a masked model": (
        "MaskedLM", "bert", "documents", {f"{MODEL}.adapter": None}, 2, "model.adapter: null would train nothing"
    ),
    "documents under SequenceClassification": (
        "SequenceClassification", "bert", "documents", {}, 2,
        f"data: {UNLABELLED}"
    ),
    "labels under MaskedLM": (
        "MaskedLM", "bert", "labelled", {}, 2, "TextFiles has labels, and MaskedLM learns running text; use TextLines"
    ),
    "packing under MaskedLM": (
        "MaskedLM", "bert", "documents", {f"{DATA}.packing": True}, 2,
        "data.packing: a masked language model sees the whole row; leave packing out"
    ),
    "masking under CausalLM": (
        "CausalLM", "llama", "documents", {f"{DATA}.masking": MASKING}, 2,
        "data.masking: a causal language model finds every token; leave masking out"
    ),
    "prompt tuning under MaskedLM": (
        "MaskedLM", "bert", "documents", {f"{MODEL}.adapter": PROMPT}, 1,
        "peft has no PromptTuningConfig for masked language models; choose one that adapts layers"
    ),
    "an adapter on the head alone": (
        "CausalLM", "llama", "documents", {f"{MODEL}.adapter": HEAD_TOO}, 1,
        "adapter.target_modules: 'lm_head' names parts of lm_head only, which stays as it is"
    ),
    "regression under CausalLM": (
        "CausalLM", "llama", "labelled", {f"{DATA}.problem_type": "regression"}, 2,
        "data.problem_type: regression cannot be told by a label's likelihood; use SequenceClassification"
    ),
    "a prompt under SequenceClassification": (
        "SequenceClassification", "bert", "labelled", {f"{DATA}.prompt": ALIKE}, 2,
        "data.prompt: only a causal language model is asked by a prompt; leave it out"
    ),
    "an objective that is not the model's": (
        "CausalLM", "llama", "documents", {f"{DATA}.objective": "masked"}, 2,
        "data.objective: 'masked' is not what the model learns; leave it out"
    ),
    "blocks longer than the positions": (
        "CausalLM", "gpt2", "documents", {f"{DATA}.max_length": 65}, 2,
        "data.max_length: got 65, but gpt2 has 64 positions"
    ),
    "a monitor of classes where tokens are learned": (
        "CausalLM", "llama", "documents",
        {"trainer.callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/f1", "mode": "max"}}]},
        2, "val/f1"
    ),
}  # fmt: skip
"""Model class, family, data, what else is set; exit code, and what is said."""


@pytest.fixture
def _no_weights(monkeypatch) -> None:
    monkeypatch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))


@pytest.mark.usefixtures("_no_weights")
@pytest.mark.parametrize("what", BAD)
def test_what_does_not_go_together_is_one_line_before_weights_load(
    what, settings_of, peftlit, write_config, tmp_path
) -> None:
    model, family, kind, changes, code, message = BAD[what]
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
    change(
        settings, f"{MODEL}.backbone.name_or_path", str(tiny.write_model(tmp_path / "other", "llama", vocab_size=40))
    )
    result = peftlit("fit", "--config", write_config(settings))
    contract_one_line_and_nothing_written(
        result, tmp_path, 2, "but the model 40; tokenizer and backbone do not belong together"
    )


def test_a_chat_template_makes_conversations_good_input(settings_of, peftlit, write_config, tmp_path) -> None:
    settings = settings_of("CausalLM", "llama", "chats")
    change(settings, f"{DATA}.chat_template", CHAT_TEMPLATE)
    change(settings, "trainer.fast_dev_run", 1)
    code, _, err = peftlit("fit", "--config", write_config(settings))
    assert code == 0, err
