from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig
from peftlit.modules.class_scores import ClassScores
from peftlit.modules.token_scores import TokenScores

from peftlit.batch import IGNORE_INDEX, DataSpec
from peftlit.errors import ConfigError, DataError
from peftlit.modules import CausalLM
from tests.conftest import toy_rows
from tests.modules.cases import LABELS
from tests.modules.language_cases import TWO_TOKENS, language_batch, lora, make_language_module, shake


def causal(kind, folder, family="llama", adapter=None, **arguments):
    return shake(make_language_module(kind, folder, adapter or lora(family), **arguments))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_is_that_of_each_token_from_those_before_it(family, language_folder):
    folder = language_folder(family)
    module, batch = causal("text", folder, family), language_batch("text", folder, toy_rows(5))
    total, tokens, right = module.loss(batch)
    logits, labels = module.logits(batch)[:, :-1], batch["labels"][:, 1:]
    asked = labels != IGNORE_INDEX
    expected = F.cross_entropy(logits[asked], labels[asked], reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert int(tokens) == int(batch["attention_mask"].sum()) - 5  # all but each row's first
    assert int(right) == int((logits[asked].argmax(-1) == labels[asked]).sum())


def test_virtual_tokens_shift_no_label(language_folder):
    folder = language_folder("llama")
    module = causal("text", folder, adapter=PromptTuningConfig(num_virtual_tokens=3))
    batch = language_batch("text", folder, toy_rows(3))
    logits, labels = module.logits(batch)[:, :-1], batch["labels"][:, 1:]
    asked = labels != IGNORE_INDEX
    assert module.logits(batch).shape[:2] == batch["input_ids"].shape
    expected = F.cross_entropy(logits[asked], labels[asked], reduction="sum")
    torch.testing.assert_close(module.loss(batch)[0], expected, rtol=1e-6, atol=0)


def test_the_restricted_loss_is_among_the_labels(language_folder):
    folder = language_folder("llama")
    module = causal("labels", folder).train()
    batch = language_batch("labels", folder, toy_rows(5))
    total, weight, scores = module.loss(batch)
    assert scores.shape == (5, 2)
    assert float(weight) == 5
    torch.testing.assert_close(total, F.cross_entropy(scores, batch["labels"], reduction="sum"))


def test_the_completion_loss_is_among_all_words_and_only_in_training(language_folder):
    folder = language_folder("llama")
    module = causal("labels", folder, words=TWO_TOKENS, label_loss="completion")
    batch = language_batch("labels", folder, toy_rows(5), words=TWO_TOKENS)
    rows = torch.arange(5)
    right = batch["label_ids"][rows, batch["labels"]]
    sums = module.label_scores(batch)[rows, batch["labels"]]  # log-likelihoods of whole labels
    total, weight, _ = module.train().loss(batch)
    torch.testing.assert_close(total, -sums.sum(), rtol=1e-5, atol=0)
    assert int(weight) == int((right != IGNORE_INDEX).sum())
    assert module.eval().loss(batch)[2].shape == (5, 2)
    assert int(module.loss(batch)[1]) == 5


@pytest.mark.parametrize(
    ("differ", "asked", "used"),
    [(True, None, "first_token"), (False, None, "sequence"), (None, None, "sequence"), (True, "sequence", "sequence")],
)
def test_scoring_is_by_the_first_token_where_that_tells_labels_apart(differ, asked, used, language_folder):
    module = make_language_module(
        "labels", language_folder("llama"), lora("llama"), scoring=asked, data={"first_tokens_differ": differ}
    )
    assert module.scoring == used
    assert module.records()["problem.json"]["scoring"] == used


def test_labels_that_begin_alike_are_refused_under_first_token(language_folder):
    folder = language_folder("llama")
    for differ, said in ((False, "begin"), (None, "may begin")):
        data = {"first_tokens_differ": differ}
        with pytest.raises(ConfigError, match=f"model.scoring: two labels {said} with the same token"):
            make_language_module("labels", folder, lora("llama"), scoring="first_token", data=data)
    module = causal("labels", folder)
    batch = language_batch("labels", folder, toy_rows(3), first_row=11)
    batch["label_ids"][1, 1] = batch["label_ids"][1, 0]
    with pytest.raises(DataError, match="row 12: behind this text two labels begin with the same token; set"):
        module.logits(batch)


def test_labels_make_a_classifier_of_it_and_texts_do_not(language_folder):
    folder = language_folder("llama")
    classifier = make_language_module("labels", folder, lora("llama"))
    assert classifier.problem.label_names == LABELS
    assert isinstance(classifier.val_scores, ClassScores)
    assert "f1" in classifier.metric_directions()
    continuer = make_language_module("text", folder, lora("llama"))
    assert continuer.problem is None
    assert isinstance(continuer.val_scores, TokenScores)
    assert continuer.curve == "perplexity"
    assert continuer.records()["problem.json"] == {
        "problem_type": "causal_language_modeling",
        "prompt": {"chat": False},
    }


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_only_one_class_a_row_can_be_told_by_likelihood(problem_type, language_folder):
    module = make_language_module("text", language_folder("llama"), lora("llama"))
    with pytest.raises(ConfigError, match=f"data.problem_type: {problem_type} cannot be told by a label's likelihood"):
        CausalLM(module.backbone, lora("llama"), data=DataSpec(label_names=LABELS, problem_type=problem_type))


def test_a_test_step_gives_rows_labels_and_probabilities_of_a_classifier_alone(language_folder):
    folder = language_folder("llama")
    with torch.inference_mode():
        found = causal("labels", folder).test_step(language_batch("labels", folder, toy_rows(3)), 0)
        assert causal("text", folder).test_step(language_batch("text", folder, toy_rows(3)), 0) is None
    assert found["row"].tolist() == [1, 2, 3]
    assert found["labels"].tolist() == [row["label"] for row in toy_rows(3)]
    torch.testing.assert_close(found["answers"].sum(-1), torch.ones(3))


def test_the_shape_of_a_batch_is_kept_for_the_message_about_memory(language_folder):
    folder = language_folder("llama")
    module, batch = causal("labels", folder), language_batch("labels", folder, toy_rows(3))
    module.loss(batch)
    assert module.batch_shape == tuple(batch["input_ids"].shape)
