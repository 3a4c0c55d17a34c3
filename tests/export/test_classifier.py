from __future__ import annotations

import itertools

import pytest

from peftlit.errors import DataError
from peftlit.export.classifier import Classifier
from peftlit.export.load import load
from tests.modules.cases import tokenizer
from tests.modules.language_cases import label_prompts, lora, make_language_module, shake


@pytest.fixture(scope="module")
def classifier(finished_run):
    return load(finished_run[0], device="cpu")


def test_memory_is_flat_because_few_texts_are_ever_held(classifier) -> None:
    pulled = 0

    def endless():
        nonlocal pulled
        for pulled in itertools.count(1):  # noqa: B007
            yield "a good film"

    answers = classifier.stream(endless(), batch_size=2)
    for given, _ in enumerate(itertools.islice(answers, 200), 1):
        assert pulled - given <= 64  # 32 batches of 2


def test_a_row_is_named_as_it_was_given_whatever_the_order_of_answering(language_folder) -> None:
    folder = language_folder("llama")
    module = shake(make_language_module("labels", folder, lora("llama")))
    asked = Classifier(module, tokenizer(folder), label_prompts(folder))
    with pytest.raises(DataError, match="predict, row 3: has two texts"):
        asked.predict(["good", "a film a film", ("the book", "x"), "a very very long film"], batch_size=2)


def test_no_texts_give_no_answers(classifier) -> None:
    assert classifier.predict([]) == []


def test_labels_come_in_the_order_of_their_ids(classifier) -> None:
    assert classifier.label_names == ["negative", "positive"]
    assert list(classifier.predict(["good"])[0]["probabilities"]) == ["negative", "positive"]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("good", "got one text, needs a list of texts"),
        (["good", None], "row 2 is None, needs a text or a pair of texts"),
        (["good", "good", "half a pair \ud800"], "row 3: text holds half of a surrogate pair"),
        (["good", ("a", "b", "c")], r"row 2 is \('a', 'b', 'c'\), needs a text or a pair"),
    ],
)
def test_what_is_no_text_is_refused(classifier, texts, said) -> None:
    with pytest.raises(DataError, match=said):
        classifier.predict(texts)
