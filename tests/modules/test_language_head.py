from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from peftlit.modules import language_head
from peftlit.modules.language_head import LanguageHead
from tests.modules.language_models import (
    CAUSAL,
    MASKED,
    TARGETS,
    VOCABULARY,
    adapter,
    assert_gradients_are_alike,
    language_model,
    lora,
    token_rows,
)

INPUTS = token_rows([7, 3, 5])
ASKED = INPUTS["attention_mask"].bool() & (torch.arange(7) % 2 == 0)
IDS = torch.tensor([[1, 5], [5, 6], [0, 39]])
NF4 = {"quantization": "nf4-double", "compute_dtype": "float32"}
MODELS = [
    *[(family, name, {}) for family in (*CAUSAL, *MASKED) for name in (None, "lora")],
    *[(family, name, {}) for family in CAUSAL for name in ("prompt", "p", "prefix")],
    *[(family, "lora", NF4) for family in ("llama", "gpt2", "bert")],
]


def plain_logits(model, inputs=INPUTS):
    """What transformers and peft say, without the virtual tokens."""
    return model(**inputs).logits[:, -inputs["input_ids"].shape[1] :]


def no_hooks_are_left(model) -> bool:
    body = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    return not body._forward_hooks and "forward" not in body.__dict__


def label_logits(model, head):
    """Logits of some words behind the third token, alone and among all."""
    return head.label_logits(head.hidden_states(INPUTS)[:, 2], IDS), plain_logits(model)[:, 2].gather(1, IDS)


@pytest.mark.parametrize(("family", "name", "backbone"), MODELS)
def test_logits_of_some_rows_are_those_of_the_model(family, name, backbone):
    model = language_model(family, adapter(name, family), **backbone)
    head = LanguageHead(model)
    hidden = head.hidden_states(INPUTS)
    assert hidden.shape == (3, 7, model.config.hidden_size)  # of a body: the head works alone
    torch.testing.assert_close(head.logits(hidden[ASKED]), plain_logits(model)[ASKED], rtol=0, atol=1e-6)
    torch.testing.assert_close(*label_logits(model, head), rtol=1e-5, atol=1e-5)
    assert no_hooks_are_left(model)


def test_logits_of_a_trained_llama_are_those_of_the_model(shared):
    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "stories260K-llama").eval()
    head = LanguageHead(model)
    assert torch.equal(head.logits(head.hidden_states(INPUTS)[ASKED]), model(**INPUTS).logits[ASKED])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_autocast_and_recomputed_activations_make_no_difference(checkpointing):
    model = language_model("gpt2", lora("gpt2"), gradient_checkpointing=checkpointing).train()
    head = LanguageHead(model)
    assert all(module.training for module in model.modules())
    labels = torch.arange(int(ASKED.sum()))

    def gradients(loss):
        torch.manual_seed(0)  # of dropout
        with torch.autocast("cpu", torch.bfloat16):
            return torch.autograd.grad(loss(), [p for p in model.parameters() if p.requires_grad])

    got = gradients(lambda: head.loss(head.hidden_states(INPUTS)[ASKED], labels)[0])
    wanted = gradients(lambda: F.cross_entropy(plain_logits(model)[ASKED].float(), labels, reduction="sum"))
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()


def test_while_hidden_states_are_made_the_head_sees_a_single_row_and_no_cache_is_kept():
    model = language_model("llama")
    head = LanguageHead(model)
    seen, asked = [], []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    note = model.model.register_forward_pre_hook(lambda m, _, named: asked.append(named["use_cache"]), with_kwargs=True)
    head.hidden_states(INPUTS)
    note.remove()
    head.logits(torch.zeros(2, model.config.hidden_size))
    assert seen == [(1, 1, 128), (1, 2, 128)]
    assert asked == [False]


def test_a_failing_forward_leaves_no_hook_behind():
    model = language_model("llama")
    head = LanguageHead(model)
    with pytest.raises(RuntimeError, match="gone wrong"), head._caught_outputs():
        raise RuntimeError("gone wrong")
    with pytest.raises(RuntimeError, match="gone wrong"), head._body_returning(None):
        raise RuntimeError("gone wrong")
    with pytest.raises(IndexError):
        head.hidden_states({**INPUTS, "input_ids": INPUTS["input_ids"] + VOCABULARY})
    assert no_hooks_are_left(model)


def test_a_forward_that_a_library_has_put_over_the_body_stays_there():
    model = language_model("llama")
    own = model.model.__dict__["forward"] = model.model.forward
    LanguageHead(model)
    assert model.model.__dict__["forward"] is own


def chunked(monkeypatch, rows_at_a_time: int) -> None:
    monkeypatch.setattr(language_head, "MAX_LOGITS", rows_at_a_time * VOCABULARY)


@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_loss_and_gradients_are_those_of_full_logits(size, monkeypatch):
    chunked(monkeypatch, size)
    model = language_model("llama", LoraConfig(r=4, target_modules=["q_proj", "lm_head"])).double()  # less rounding
    head = LanguageHead(model)
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(VOCABULARY, (int(ASKED.sum()),), generator=chance)
    labels[:3] = plain_logits(model)[ASKED][:3].argmax(-1)
    total, right = head.loss(head.hidden_states(INPUTS)[ASKED], labels)
    logits = plain_logits(model)[ASKED]
    expected = F.cross_entropy(logits, labels, reduction="sum")
    assert int(right) == int((logits.argmax(-1) == labels).sum()) >= 3
    assert not right.requires_grad
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    assert_gradients_are_alike(total, expected, model, 1e-6)


def test_no_more_logits_exist_at_a_time_than_are_allowed(monkeypatch):
    chunked(monkeypatch, 2)
    model = language_model("llama")
    head = LanguageHead(model)
    kept, made = [], []
    hidden = head.hidden_states(INPUTS)[ASKED].detach().requires_grad_()
    model.lm_head.register_forward_hook(lambda module, inputs, output: made.append(output.shape[-2]))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        total, _ = head.loss(hidden, torch.zeros(len(hidden), dtype=torch.int64))
    assert len(hidden) == 9
    assert made == [2, 2, 2, 2, 1]
    assert VOCABULARY * 2 not in kept
    total.backward()
    assert len(made) == 10  # each chunk again
    made.clear()
    with torch.no_grad():
        head.loss(hidden, torch.zeros(len(hidden), dtype=torch.int64))
    assert made == [2, 2, 2, 2, 1]


def test_without_rows_the_loss_is_a_zero_on_the_graph():
    model = language_model("llama", LoraConfig(r=4, target_modules=["q_proj", "lm_head"]))
    head = LanguageHead(model)
    nothing = torch.zeros_like(ASKED)
    total, right = head.loss(head.hidden_states(INPUTS)[nothing], torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert (total.item(), right.item()) == (0.0, 0)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_the_softmax_is_taken_in_float32():
    model = language_model("llama", dtype="bfloat16")
    head = LanguageHead(model)
    hidden = head.hidden_states(INPUTS)[ASKED]
    labels = torch.arange(len(hidden))
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(
        head.loss(hidden, labels)[0], F.cross_entropy(head.logits(hidden).float(), labels, reduction="sum")
    )


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_gradients_of_label_logits_are_those_of_the_model(family):
    model = language_model(family, lora(family))
    got, expected = label_logits(model, LanguageHead(model))
    assert_gradients_are_alike(got.square().sum(), expected.square().sum(), model, 1e-5)


def test_label_logits_have_the_bias_of_their_words_and_what_a_model_adds_behind_its_matrix():
    model = language_model("llama")
    model.lm_head.bias = nn.Parameter(torch.arange(VOCABULARY) / 10)
    head = LanguageHead(model)
    assert head._words_alone
    torch.testing.assert_close(*label_logits(model, head))
    shift = torch.arange(VOCABULARY) / 1000
    model.register_forward_hook(lambda module, inputs, output: SimpleNamespace(logits=output.logits + shift))
    torch.testing.assert_close(*label_logits(model, LanguageHead(model)))


@pytest.mark.parametrize(
    ("family", "adapter", "overrides", "alone"),
    [
        ("llama", None, {}, True),
        ("llama", lora("llama"), {}, True),
        ("gpt2", None, {}, True),
        ("gemma2", None, {"final_logit_softcapping": None}, True),
        ("gemma2", None, {}, False),
        ("gemma2", None, {"final_logit_softcapping": 500.0}, False),  # these logits are far below it
        ("bert", None, {}, False),
        ("llama", LoraConfig(target_modules=["lm_head"]), {}, False),  # zero at first
        ("llama", LoraConfig(target_modules=TARGETS["llama"], modules_to_save=["lm_head"]), {}, False),
    ],
)
def test_other_words_are_left_out_only_where_the_matrix_is_all_there_is(family, adapter, overrides, alone):
    assert LanguageHead(language_model(family, adapter, overrides=overrides))._words_alone is alone


class Body(nn.Module):
    device = torch.device("cpu")

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.named, self.words = named, nn.Embedding(VOCABULARY, 4)

    def forward(self, input_ids):
        hidden = self.words(input_ids)
        return BaseModelOutput(last_hidden_state=hidden) if self.named else (hidden,)


class Headstrong(nn.Module):
    """A model whose head looks at more than its body's hidden states."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.base_model, self.matrix = Body(named), nn.Linear(4, VOCABULARY)

    def forward(self, input_ids, attention_mask=None):
        logits = self.matrix(self.base_model(input_ids)[0])
        return SimpleNamespace(logits=logits + 0.01 * F.one_hot(input_ids, VOCABULARY))


@pytest.mark.parametrize("named", [True, False])
def test_a_head_that_does_not_work_alone_gives_way_to_full_logits(named, caplog):
    model = Headstrong(named)
    with caplog.at_level(logging.INFO):
        head = LanguageHead(model)
    assert [record.getMessage() for record in caplog.records] == [
        "Headstrong: its head does not work apart from its body; all logits are computed"
    ]
    rows, expected = head.hidden_states(INPUTS)[ASKED], model(**INPUTS).logits[ASKED]
    ids = torch.ones(len(rows), 2, dtype=torch.int64)
    assert torch.equal(head.logits(rows), expected)
    assert torch.equal(head.label_logits(rows, ids), expected.gather(1, ids))
    torch.testing.assert_close(head.loss(rows, ids[:, 0])[0], F.cross_entropy(expected, ids[:, 0], reduction="sum"))


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*[(family, way) for family in ("gpt2", "llama", "qwen3") for way in ("sdpa", "eager")], ("gemma2", "eager")],
)
def test_rows_branch_and_sequences_are_kept_apart_where_attention_takes_masks_and_positions(family, implementation):
    head = LanguageHead(language_model(family, attn_implementation=implementation))
    assert head.branching_limit > 1000
    assert head.keeps_apart


@pytest.mark.parametrize(
    ("family", "name", "overrides", "limit"),
    [("gemma2", None, {"sliding_window": 6}, 6), *[("llama", name, {}, 0) for name in ("prompt", "p", "prefix")]],
)
def test_rows_beyond_a_window_or_behind_virtual_tokens_do_not_branch(family, name, overrides, limit):
    assert LanguageHead(language_model(family, adapter(name, family), overrides=overrides)).branching_limit == limit


@pytest.mark.parametrize("broken", ["attention_mask", "position_ids"])
def test_neither_where_the_model_goes_by_something_else(broken, monkeypatch, caplog):
    model = language_model("gpt2")
    head, true_forward = LanguageHead(model), model.transformer.forward

    def forward(input_ids, *, attention_mask=None, position_ids=None, **others):
        told = {"attention_mask": attention_mask, "position_ids": position_ids, broken: None}
        return true_forward(input_ids, **told, **others)

    monkeypatch.setattr(model.transformer, "forward", forward)
    with caplog.at_level(logging.INFO):
        assert head.branching_limit == head.branching_limit == 0
    assert [record.getMessage() for record in caplog.records] == [
        "GPT2LMHeadModel: rows of more than 0 tokens cannot branch; labels get rows of their own"
    ]
    assert head.keeps_apart is (broken == "attention_mask")
