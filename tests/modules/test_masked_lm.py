from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import PromptTuningConfig

from peftlit.batch import IGNORE_INDEX
from peftlit.errors import AdapterError
from tests.conftest import toy_rows
from tests.modules.cases import make_trainer
from tests.modules.language_cases import language_batch, language_batches, lora, make_language_module, shake


@pytest.fixture
def module(language_folder):
    return shake(make_language_module("masked", language_folder("bert"), lora("bert")))


def test_the_loss_is_that_of_the_hidden_tokens_at_which_logits_do_not_look(module, language_folder):
    batch = language_batch("masked", language_folder("bert"), toy_rows(5))
    total, tokens, right = module.loss(batch)
    logits, asked = module.logits(batch), batch["labels"] != IGNORE_INDEX
    assert 5 <= int(tokens) == int(asked.sum()) < int(batch["attention_mask"].sum()) / 2
    expected = F.cross_entropy(logits[asked], batch["labels"][asked], reduction="sum")
    torch.testing.assert_close(total, expected, rtol=1e-6, atol=0)
    assert int(right) == int((logits[asked].argmax(-1) == batch["labels"][asked]).sum())
    assert torch.equal(logits, module.logits({**batch, "labels": batch["labels"].roll(1)}))


def test_scores_are_logged_and_told_and_the_record_says_what_the_model_is_for(module, language_folder):
    loader = torch.utils.data.DataLoader(language_batches("masked", language_folder("bert"), [3, 1]), batch_size=None)
    logged = make_trainer(-1).validate(module, loader, verbose=False)[0]
    assert set(logged) == {"val/loss", "val/perplexity", "val/accuracy"} == set(module.monitors()) - {"train/loss"}
    assert module.evaluation_extras["tokens"] > 0
    assert module.records() == {"problem.json": {"problem_type": "masked_language_modeling"}}
    assert module.problem is None


def test_prompt_tuning_is_refused_before_weights_load(language_folder):
    module = make_language_module("masked", language_folder("bert"), PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(AdapterError, match="peft has no PromptTuningConfig for masked language models"):
        module.check()
    assert module.model is None
