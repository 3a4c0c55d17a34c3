"""P11: what is done to a text before the tokenizer in training is done wherever the exported model is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from peftlit.backbone import Backbone
from peftlit.batch import DataSpec
from peftlit.data.cleaning import Cleaner
from peftlit.export.write import export
from peftlit.modules import CausalLM, SequenceClassification
from peftlit.run.predictions import Predictions
from tests.conftest import toy_rows
from tests.contracts.test_p11_templates import (
    contract_predict_feeds_what_was_trained,
    messages_and_questions,
    prompts_and_questions,
)
from tests.contracts.test_p12_metrics import read_predictions
from tests.data.helpers import text_files
from tests.data.language_data import turns
from tests.data.test_chat import TEMPLATES
from tests.modules.cases import make_trainer
from tests.modules.language_cases import lora, shake

NAMES = ["bad", "good"]
CLEANING: dict[str, Any] = {"cleaning_steps": ["html", "tags", "whitespace"]}


def marked(text: str) -> str:
    """A text with markup around its words, as its author typed it."""
    first, *rest = text.split()
    return f"<p class='a'>{first}</p><br />&amp; {'  '.join(rest)} &amp;lt; &lt;b&gt; "


ROWS = [{"text": marked(str(row["text"])), "label": NAMES[int(str(row["label"]))]} for row in toy_rows(12)]
PAIRS = [{"question": marked("is it good"), "review": row["text"], "label": row["label"]} for row in ROWS]
COLUMNS = {"text": {}, "pair": {"text_column": "question", "text_pair_column": "review"}}


def contract_predict_equals_predictions_csv(
    folder: Path, model: Path, peftlit: Any, task: str = "SequenceClassification", kind: str = "text"
) -> None:
    """From the file of the test rows, ``predict`` gives the probabilities that ``test`` wrote down."""
    rows = ROWS if kind == "text" else PAIRS
    objective = "causal" if task == "CausalLM" else None
    settings = {"tokenizer": str(model), "label_names": NAMES, "objective": objective, **CLEANING, **COLUMNS[kind]}
    data = text_files(folder, rows, rows, **settings)
    make = CausalLM if task == "CausalLM" else SequenceClassification
    module = shake(make(Backbone(str(model)), lora("llama", r=2), data=data.data_spec()))
    predictions = Predictions(folder / "predictions.csv", module.problem)
    make_trainer(-1, predictions).test(module, datamodule=data, verbose=False)
    export(module, data.get_tokenizer(), folder / "adapter", {})
    code, out, err = peftlit("predict", "--run_dir=adapter", "--file=test.jsonl", "--device=cpu")
    assert code == 0, err
    expected, answers = read_predictions(folder / "predictions.csv"), [json.loads(line) for line in out.splitlines()]
    assert [answer["probabilities"] for answer in answers] == [
        pytest.approx({name: float(row[f"prob_{name}"]) for name in NAMES}, abs=1e-6) for row in expected
    ]
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in expected]


@pytest.mark.parametrize("task", ["SequenceClassification", "CausalLM"])
@pytest.mark.parametrize("kind", COLUMNS)
def test_p11_predict_answers_raw_rows_as_test_does(task, kind, language_folder, tmp_path, peftlit):
    contract_predict_equals_predictions_csv(tmp_path, language_folder("llama"), peftlit, task, kind)


def contract_prompts_are_cleaned_as_in_training(folder: Path, model: Path) -> None:
    """What a language model is fed for raw prompts and conversations is what stood before the cleaned completions."""
    texts = [("the <b>film</b> &amp; ", " was  good"), ("a book<br />", "is long")]
    talks = [turns("is<br>it &lt;b&gt; good ?", "very  good"),
             turns("<p>the plot", "dull", "why &amp; ?", "it was long")]  # fmt: skip
    for name in ("texts", "talks"):
        (folder / name).mkdir()
    contract_predict_feeds_what_was_trained(folder / "texts", model, *prompts_and_questions(texts), **CLEANING)
    chat = {"chat_template": TEMPLATES["zephyr"], **CLEANING}
    contract_predict_feeds_what_was_trained(folder / "talks", model, *messages_and_questions(talks), **chat)


def test_p11_prompts_are_cleaned_as_in_training(language_folder, tmp_path):
    contract_prompts_are_cleaned_as_in_training(tmp_path, language_folder("llama"))


# Breakers ----------------------------------------------------------------------------------------------------------


record, clean = DataSpec.text_record, Cleaner.clean_all
BREAKERS: dict[str, tuple[Any, str, Any]] = {
    "nothing cleaned": (Cleaner, "clean_all", lambda self, value: value),
    "steps lost": (DataSpec, "text_record", lambda self: {**record(self), "cleaning_steps": []}),
    "cleaned twice": (Cleaner, "clean_all", lambda self, value: clean(self, clean(self, value))),
}


@pytest.mark.parametrize("broken", BREAKERS)
def test_p11_breaker_predict_that_cleans_otherwise(broken, language_folder, tmp_path, peftlit, monkeypatch):
    monkeypatch.setattr(*BREAKERS[broken])
    with pytest.raises(AssertionError, match="approx"):
        contract_predict_equals_predictions_csv(tmp_path, language_folder("llama"), peftlit)


@pytest.mark.parametrize("broken", ["nothing cleaned", "steps lost"])
def test_p11_breaker_prompts_that_are_not_cleaned(broken, language_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(*BREAKERS[broken])
    with pytest.raises(AssertionError):
        contract_prompts_are_cleaned_as_in_training(tmp_path, language_folder("llama"))
