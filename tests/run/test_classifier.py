from __future__ import annotations

import itertools

import pytest

from peftlit.errors import DataError
from peftlit.run.load import load


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
        (["good", ("a", "b", "c")], r"row 2 is \('a', 'b', 'c'\), needs a text or a pair"),
    ],
)
def test_what_is_no_text_is_refused(classifier, texts, said) -> None:
    with pytest.raises(DataError, match=said):
        classifier.predict(texts)
