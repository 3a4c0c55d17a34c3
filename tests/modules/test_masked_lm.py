from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from peftlit.batch import IGNORE_INDEX
from peftlit.errors import AdapterError
from tests.conftest import toy_rows
from tests.modules.cases import make_trainer
from tests.modules.language_cases import language_batch, language_batches, lora, make_language_module, shake


@pytest.fixture
def module(language_folder):
    return shake(make_language_module("masked", language_folder("bert"), lora("bert")))


def test_the_loss_is_that_of_the_hidden_tokens(module, language_folder):
    batch = language_batch("masked", language_folder("bert"), toy_rows(5))
    total, tokens, right = module.loss(batch)
    logits = module.logits(batch)
    asked = batch["labels"] != IGNORE_INDEX
    assert 5 <= int(tokens) == int(asked.sum()) < int(batch["attention_mask"].sum()) / 2
    expected = F.cross_entropy(logits[asked], batch["labels"][asked], reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert int(right) == int((logits[asked].argmax(-1) == batch["labels"][asked]).sum())


def test_logits_do_not_look_at_labels_and_do_not_depend_on_batch_mates(module, language_folder):
    batch = language_batch("masked", language_folder("bert"), toy_rows(5))
    logits = module.evaluate_batch(batch)
    assert torch.equal(logits, module.evaluate_batch({**batch, "labels": batch["labels"].roll(1)}))
    length = int(batch["attention_mask"][0].sum())
    alone = {name: batch[name][:1, :length] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(module.evaluate_batch(alone)[0], logits[0, :length], rtol=0, atol=1e-5)


def test_scores_are_logged_and_told(module, language_folder):
    trainer = make_trainer(-1)
    loader = torch.utils.data.DataLoader(language_batches("masked", language_folder("bert"), [3, 1]), batch_size=None)
    logged = trainer.validate(module, loader, verbose=False)[0]
    assert set(logged) == {"val/loss", "val/perplexity", "val/accuracy"}
    assert {f"val/{name}" for name in module.metric_directions()} == set(logged) - {"val/loss"}
    assert set(module.monitors()) >= set(logged)
    assert module.evaluation_extras["tokens"] > 0


def test_the_record_says_what_the_model_is_for(module):
    assert module.records() == {"problem.json": {"problem_type": "masked_language_modeling"}}
    assert module.problem is None


def test_prompt_tuning_is_refused_before_weights_load(language_folder):
    from peft import PromptTuningConfig

    module = make_language_module("masked", language_folder("bert"), PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(AdapterError, match="peft has no PromptTuningConfig for masked language models"):
        module.check()
    assert module.model is None
