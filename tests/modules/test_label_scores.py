from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from peftlit.batch import IGNORE_INDEX
from peftlit.modules import label_scores, language_head
from peftlit.modules.label_scores import first_token_scores, join, sequence_scores
from peftlit.modules.language_head import LanguageHead
from tests.modules.language_models import VOCABULARY, adapter, assert_gradients_are_alike, language_model, token_rows

PROMPTS = [9, 4, 6]
LABELS = [[[5, 6, 7], [5, 8], [9]], [[10, 3], [4, 3, 2], [1]], [[7, 7, 7], [2, 30], [30]]]
"""Three labels of uneven lengths for each prompt; they may start alike."""
SIDES = ["left", "right"]


def label_tokens() -> torch.Tensor:
    rows = [torch.tensor(tokens) for row in LABELS for tokens in row]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX).view(3, 3, 3)


def plain_scores(model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """First-token logits and log-likelihoods, (3, 3) each: every prompt with every label by itself, without padding."""
    firsts, sums = [], []
    for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], LABELS, strict=True):
        prompt = ids[mask.bool()]
        for label in labels:
            row = torch.cat([prompt, torch.tensor(label)]).unsqueeze(0)
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, -1 - len(label) : -1].float()
            firsts.append(logits[0, label[0]])
            sums.append(logits.log_softmax(-1)[range(len(label)), label].sum())
    return torch.stack(firsts).view(3, 3), torch.stack(sums).view(3, 3)


def assert_scores_are_plain(model, side: str) -> None:
    head, inputs = LanguageHead(model), token_rows(PROMPTS, side)
    firsts, sums = plain_scores(model, inputs)
    torch.testing.assert_close(first_token_scores(head, inputs, label_tokens()), firsts, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(sequence_scores(head, inputs, label_tokens()), sums, rtol=1e-6, atol=1e-5)


NF4 = {"quantization": "nf4", "compute_dtype": "float32"}
MODELS = [
    *[(family, name, {}) for family in ("llama", "gpt2", "qwen3") for name in (None, "lora", "prompt", "p", "prefix")],
    *[(family, "lora", {"attn_implementation": "eager"}) for family in ("llama", "gpt2", "qwen3", "gemma2")],
    *[(family, name, NF4) for family in ("llama", "gpt2") for name in ("lora", "prompt", "prefix")],
    ("gemma2", "lora", {"overrides": {"sliding_window": 5}}),  # rows reach beyond it
]


@pytest.mark.parametrize(("family", "name", "options"), MODELS)
def test_scores_are_those_of_each_row_by_itself(family, name, options):
    model = language_model(family, adapter(name, family), **options)
    for side in SIDES:
        assert_scores_are_plain(model, side)


@torch.no_grad()
def test_scores_of_a_trained_llama_are_those_of_each_row_by_itself(shared):
    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "stories260K-llama").eval()
    for side in SIDES:
        assert_scores_are_plain(model, side)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["lora", "prompt"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_those_of_each_row_by_itself(family, name, checkpointing, monkeypatch):
    monkeypatch.setattr(language_head, "MAX_LOGITS", 2 * VOCABULARY)
    no_dropout = {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0} if family == "gpt2" else {}
    model = language_model(family, adapter(name, family), overrides=no_dropout, gradient_checkpointing=checkpointing)
    model = model.double().train()  # less rounding
    head, inputs = LanguageHead(model), token_rows(PROMPTS, "left")
    firsts, sums = plain_scores(model, inputs)
    for score, expected in ((first_token_scores, firsts), (sequence_scores, sums)):
        got = score(head, inputs, label_tokens())
        assert_gradients_are_alike(got.square().sum(), expected.square().sum(), model, 1e-6)


@pytest.mark.parametrize(
    ("name", "fed"), [(None, [(3, 9 + 3 * 2), (3, 9), (3, 9)]), ("prompt", [(9, 9 + 3), (3, 9), (3, 9)])]
)
def test_a_prompt_is_computed_once_where_rows_can_branch_or_one_token_is_enough(name, fed, monkeypatch):
    head, shapes = LanguageHead(language_model("llama", adapter(name, "llama"))), []
    assert head.branching_limit >= 0  # probed before
    true_states = head.hidden_states
    monkeypatch.setattr(
        head, "hidden_states", lambda rows: shapes.append((*rows["input_ids"].shape,)) or true_states(rows)
    )
    sequence_scores(head, token_rows(PROMPTS), label_tokens())
    sequence_scores(head, token_rows(PROMPTS), label_tokens()[:, :, :1])
    first_token_scores(head, token_rows(PROMPTS), label_tokens())
    assert shapes == fed


def test_one_token_labels_are_scored_by_the_prompt_alone():
    model = language_model("llama", adapter("prefix", "llama"))
    head, inputs, tokens = LanguageHead(model), token_rows(PROMPTS, "left"), label_tokens()[:, :, :1]
    expected = label_scores._scores_in_own_rows(head, inputs, tokens)
    torch.testing.assert_close(sequence_scores(head, inputs, tokens), expected, rtol=0, atol=1e-5)


def test_scores_are_float32_under_autocast():
    head, inputs = LanguageHead(language_model("llama", dtype="bfloat16")), token_rows(PROMPTS, "left")
    with torch.autocast("cpu", torch.bfloat16):
        scores = [score(head, inputs, label_tokens()) for score in (first_token_scores, sequence_scores)]
    assert [score.dtype for score in scores] == [torch.float32, torch.float32]
    assert all(score.isfinite().all() for score in scores)


@pytest.mark.parametrize("side", SIDES)
def test_join_puts_labels_behind_prompts_with_padding_on_the_right(side):
    inputs = token_rows([3, 1], side)
    prompts = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    long, short = (ids[mask.bool()].tolist() for ids, mask in prompts)
    skipped = IGNORE_INDEX
    joined = join(inputs, torch.tensor([[[5, 6], [7, skipped]], [[8, 9], [5, skipped]]]), pad_token_id=39)
    ids = [[*long, 5, 6], [*long, 7, 39], [*short, 8, 9, 39, 39], [*short, 5, 39, 39, 39]]
    assert joined["input_ids"].tolist() == ids
    assert joined["attention_mask"].sum(1).tolist() == [5, 4, 3, 2]
    asked = [[skipped] * 3 + [5, 6], [skipped] * 3 + [7, skipped]]
    asked += [[skipped, 8, 9, skipped, skipped], [skipped, 5, skipped, skipped, skipped]]
    assert joined["labels"].tolist() == asked


def test_join_cuts_off_what_no_row_needs():
    joined = join(token_rows([3, 1], "left"), torch.tensor([[[5, 6, IGNORE_INDEX]], [[7, IGNORE_INDEX, IGNORE_INDEX]]]))
    assert joined["input_ids"].shape == (2, 5)
    assert joined["input_ids"][1, 2:].tolist() == [0, 0, 0]
