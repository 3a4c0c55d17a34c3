from __future__ import annotations

import pytest
import torch

from peftlit.errors import DataError
from peftlit.export.mask_filler import MaskFiller
from tests.modules.cases import tokenizer
from tests.modules.language_cases import lora, make_language_module, shake

TEXTS = ["the film was [MASK] .", "[MASK] story , [MASK] plot !", "a very long and dull [MASK] about money"]


@pytest.fixture
def filler(language_folder) -> MaskFiller:
    folder = language_folder("bert")
    return MaskFiller(shake(make_language_module("masked", folder, lora("bert"))), tokenizer(folder))


def test_every_gap_is_told_with_its_likeliest_tokens(filler):
    answers = filler.predict(TEXTS)
    assert [len(answer["masks"]) for answer in answers] == [1, 2, 1]
    for answer in answers:
        assert "[MASK]" not in answer["text"]
        for gap in answer["masks"]:
            values = [candidate["probability"] for candidate in gap]
            assert len(gap) == 5
            assert values == sorted(values, reverse=True)
            assert sum(values) <= 1
    first, second = answers[1]["masks"]
    assert answers[1]["text"] == f"{first[0]['token']} story , {second[0]['token']} plot !"


def test_a_gap_whose_likeliest_token_is_a_gap_stays_one(filler, monkeypatch):
    order = [filler.tokenizer.mask_token_id, filler.tokenizer.convert_tokens_to_ids("good")]
    logits = torch.nn.functional.one_hot(torch.tensor(order), len(filler.tokenizer)).float()
    monkeypatch.setattr(filler, "_gap_logits", lambda batch: logits)
    (answer,) = filler.predict(["the [MASK] was [MASK] ."])
    assert answer["text"] == "the [MASK] was good ."


def test_logits_are_those_of_gaps_alone(filler, monkeypatch):
    head, seen = filler.module.language_head, []
    true_logits = head.logits
    monkeypatch.setattr(head, "logits", lambda rows: seen.append(len(rows)) or true_logits(rows))
    filler.predict(TEXTS)
    assert seen == [4]


def test_probabilities_are_those_of_plain_transformers(filler):
    inputs = filler.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        logits = filler.module.model(**inputs).logits[0]
    gap = inputs["input_ids"][0] == filler.tokenizer.mask_token_id
    expected = logits[gap].softmax(-1)[0].topk(5)
    (answer,) = filler.predict([TEXTS[0]])
    assert [c["probability"] for c in answer["masks"][0]] == pytest.approx(expected.values.tolist(), abs=1e-6)
    assert [c["token"] for c in answer["masks"][0]] == [filler.tokenizer.decode([i]) for i in expected.indices.tolist()]


def test_a_batch_is_answered_as_each_text_by_itself(filler):
    for together, alone in zip(filler.predict(TEXTS), filler.predict(TEXTS, batch_size=1), strict=True):
        assert together["text"] == alone["text"]
        for one, other in zip(together["masks"], alone["masks"], strict=True):
            assert [c["probability"] for c in one] == pytest.approx([c["probability"] for c in other], abs=1e-6)


@pytest.mark.parametrize("question", ["no gap here", None, ("a [MASK]", "b")])
def test_what_has_no_gap_is_refused_by_its_row(filler, question):
    with pytest.raises(DataError, match=r"row 2 is .*, needs a text with \[MASK\] in it"):
        filler.predict([TEXTS[0], question], batch_size=1)


def test_a_gap_that_is_cut_off_is_refused_by_its_row(filler):
    with pytest.raises(DataError, match="row 2: a gap comes after its first 64 tokens, where texts are truncated"):
        filler.predict([TEXTS[0], "film " * 70 + "[MASK]"])
