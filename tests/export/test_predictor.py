"""What all that answers has in common."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from peftlit.batch import DataSpec
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor


class Echo(Predictor):
    """Says what it was asked, with its row and how many came with it."""

    chunk_batches = 2

    def batch(self, questions: Sequence[Any], rows: Sequence[int]) -> Any:
        return {"input_ids": torch.tensor([[len(question)] for question in questions])}

    def answers(self, questions: Sequence[Any], rows: Sequence[int], batch_size: int) -> list[dict[str, Any]]:
        return [{"said": q, "row": row, "of": len(questions)} for q, row in zip(questions, rows, strict=True)]


@pytest.fixture
def echo() -> Echo:
    return make_echo()


def make_echo(*cleaning_steps: str) -> Echo:
    data = DataSpec(cleaning_steps=cleaning_steps)
    module: Any = SimpleNamespace(evaluate_batch=lambda batch: batch["input_ids"] + 1.0, data=data)
    tokenizer: Any = None
    return Echo(module, tokenizer)


def test_answers_come_in_order_with_their_rows_a_few_batches_at_a_time(echo):
    answers = echo.predict(list("abcde"), batch_size=2)
    assert [answer["said"] for answer in answers] == list("abcde")
    assert [answer["row"] for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer["of"] for answer in answers] == [4, 4, 4, 4, 1]


def test_a_stream_is_pulled_only_as_it_is_answered(echo):
    pulled = []
    stream = echo.stream((pulled.append(number) or str(number) for number in range(100)), batch_size=3)
    assert pulled == []
    next(stream)
    assert len(pulled) == 6


def test_a_probe_shows_what_is_fed_and_what_comes_of_it(echo):
    probe = echo.probe(["a", "abc"])
    assert {name: value.tolist() for name, value in probe.items()} == {
        "input_ids": [[1], [3]],
        "logits": [[2.0], [4.0]],
    }


def test_whatever_is_asked_is_cleaned_as_in_training():
    echo = make_echo("tags", "whitespace")
    asked = ["a<br>b", ("a <i>b</i>", " c"), [{"role": "user", "content": "d<br>"}], 3]
    said = ["a b", ("a b", "c"), [{"role": "user", "content": "d"}], 3]
    assert [answer["said"] for answer in echo.predict(asked)] == said
    assert echo.probe(["<p>a b</p>"])["input_ids"].tolist() == [[3]]


def test_one_text_and_batches_of_nothing_are_refused(echo):
    with pytest.raises(DataError, match=r"got one text, needs a list of texts; put it in brackets: \[text\]"):
        echo.predict("good")
    with pytest.raises(DataError, match="batch_size is 0, needs 1 or more"):
        echo.predict(["good"], batch_size=0)
