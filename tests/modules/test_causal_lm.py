from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig

from peftlit.batch import IGNORE_INDEX
from peftlit.errors import ConfigError, DataError
from peftlit.modules.scores import ClassScores, TokenScores
from tests.conftest import toy_rows
from tests.modules.cases import LABELS
from tests.modules.language_cases import TWO_TOKENS, language_batch, lora, make_language_module, shake


@pytest.fixture
def llama(language_folder):
    return language_folder("llama")


def causal(kind, folder, adapter=None, **arguments):
    return shake(make_language_module(kind, folder, adapter or lora("llama"), **arguments))


@pytest.mark.parametrize(
    ("family", "adapter"),
    [("llama", lora("llama")), ("gpt2", lora("gpt2")), ("llama", PromptTuningConfig(num_virtual_tokens=3))],
    ids=["llama", "gpt2", "virtual tokens"],
)
def test_the_loss_is_that_of_each_token_from_those_before_it(family, adapter, language_folder):
    folder = language_folder(family)
    module, batch = causal("text", folder, adapter), language_batch("text", folder, toy_rows(5))
    total, tokens, right = module.loss(batch)
    assert module.logits(batch).shape[:2] == batch["input_ids"].shape
    logits, labels = module.logits(batch)[:, :-1], batch["labels"][:, 1:]
    asked = labels != IGNORE_INDEX
    expected = F.cross_entropy(logits[asked], labels[asked], reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert int(tokens) == int(batch["attention_mask"].sum()) - 5  # all but each row's first
    assert int(right) == int((logits[asked].argmax(-1) == labels[asked]).sum())


def test_the_restricted_loss_is_among_the_labels(llama):
    module = causal("labels", llama).train()
    batch = language_batch("labels", llama, toy_rows(5))
    total, weight, scores = module.loss(batch)
    assert scores.shape == (5, 2)
    assert float(weight) == 5
    torch.testing.assert_close(total, F.cross_entropy(scores, batch["labels"], reduction="sum"))
    assert module.batch_shape == tuple(batch["input_ids"].shape)  # for the message about memory


def test_the_completion_loss_is_among_all_words_and_only_in_training(llama):
    module = causal("labels", llama, words=TWO_TOKENS, label_loss="completion")
    batch = language_batch("labels", llama, toy_rows(5), words=TWO_TOKENS)
    rows = torch.arange(5)
    right = batch["label_ids"][rows, batch["labels"]]
    sums = module.label_scores(batch)[rows, batch["labels"]]  # log-likelihoods of whole labels
    total, weight, _ = module.train().loss(batch)
    torch.testing.assert_close(total, -sums.sum(), rtol=1e-5, atol=0)
    assert int(weight) == int((right != IGNORE_INDEX).sum())
    _, weight, scores = module.eval().loss(batch)
    assert (int(weight), scores.shape) == (5, (5, 2))


@pytest.mark.parametrize(
    ("differ", "asked", "used"),
    [(True, None, "first_token"), (False, None, "sequence"), (None, None, "sequence"), (True, "sequence", "sequence")],
)
def test_scoring_is_by_the_first_token_where_that_tells_labels_apart(differ, asked, used, llama):
    data = {"first_tokens_differ": differ}
    module = make_language_module("labels", llama, lora("llama"), scoring=asked, data=data)
    assert module.scoring == module.records()["problem.json"]["scoring"] == used


@pytest.mark.parametrize(
    ("kind", "scoring", "data", "said"),
    [
        ("labels", "first_token", {"first_tokens_differ": False}, "model.scoring: two labels begin with the same"),
        ("labels", "first_token", {"first_tokens_differ": None}, "model.scoring: two labels may begin with the same"),
        ("text", None, {"problem_type": "regression"}, "regression cannot be told by a label's likelihood"),
        ("text", None, {"problem_type": "multi_label_classification"}, "classification cannot be told by a label's"),
    ],
)
def test_labels_that_likelihoods_cannot_tell_are_refused(kind, scoring, data, said, llama):
    with pytest.raises(ConfigError, match=said):
        make_language_module(kind, llama, lora("llama"), scoring=scoring, data={"label_names": LABELS, **data})


def test_labels_that_begin_alike_behind_one_text_are_refused_there(llama):
    module, batch = causal("labels", llama), language_batch("labels", llama, toy_rows(3), first_row=11)
    batch["label_ids"][1, 1] = batch["label_ids"][1, 0]
    with pytest.raises(DataError, match="row 12: behind this text two labels begin with the same token; set"):
        module.logits(batch)


def test_labels_make_a_classifier_of_it_and_texts_do_not(llama):
    classifier, continuer = causal("labels", llama), causal("text", llama)
    assert classifier.problem.label_names == LABELS
    assert isinstance(classifier.val_scores, ClassScores)
    assert "val/f1" in classifier.monitors()
    assert continuer.problem is None
    assert isinstance(continuer.val_scores, TokenScores)
    assert continuer.curve == "perplexity"
    record = {"problem_type": "causal_language_modeling", "prompt": {"chat": False}}
    assert continuer.records()["problem.json"] == record
    with torch.inference_mode():
        found = classifier.test_step(language_batch("labels", llama, toy_rows(3)), 0)
        assert continuer.test_step(language_batch("text", llama, toy_rows(3)), 0) is None
    assert found["row"].tolist() == [1, 2, 3]
    assert found["labels"].tolist() == [row["label"] for row in toy_rows(3)]
    torch.testing.assert_close(found["answers"].sum(-1), torch.ones(3))
