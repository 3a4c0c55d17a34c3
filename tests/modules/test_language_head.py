from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from peftlit.modules import language_head
from peftlit.modules.language_head import LanguageHead
from tests.modules.language_models import (
    CAUSAL,
    MASKED,
    TARGETS,
    VOCABULARY,
    adapter,
    language_model,
    lora,
    token_rows,
)  # fmt: skip

INPUTS = token_rows([7, 3, 5])
ASKED = INPUTS["attention_mask"].bool() & (torch.arange(7) % 2 == 0)
ADAPTERS = [
    *[(family, name) for family in (*CAUSAL, *MASKED) for name in (None, "lora")],
    *[(family, name) for family in CAUSAL for name in ("prompt", "p", "prefix")],
]


def plain_logits(model, inputs=INPUTS):
    """What transformers and peft say, without the virtual tokens."""
    return model(**inputs).logits[:, -inputs["input_ids"].shape[1] :]


def no_hooks_are_left(model) -> bool:
    body = (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model
    return not body._forward_hooks and "forward" not in body.__dict__


@pytest.mark.parametrize(("family", "name"), ADAPTERS)
def test_logits_of_some_rows_are_those_of_the_model(family, name):
    model = language_model(family, adapter(name, family))
    head = LanguageHead(model)
    hidden = head.hidden_states(INPUTS)
    expected = plain_logits(model)
    assert hidden.shape == (3, 7, model.config.hidden_size)  # of a body: the head works alone
    torch.testing.assert_close(head.logits(hidden[ASKED]), expected[ASKED], rtol=0, atol=1e-6)
    assert no_hooks_are_left(model)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_logits_on_quantized_weights_are_those_of_the_model(family):
    model = language_model(family, lora(family), quantization="nf4-double", compute_dtype="float32")
    head = LanguageHead(model)
    hidden = head.hidden_states(INPUTS)
    torch.testing.assert_close(head.logits(hidden[ASKED]), plain_logits(model)[ASKED], rtol=0, atol=1e-6)
    ids = torch.tensor([[3, 1], [0, 7]])
    torch.testing.assert_close(head.label_logits(hidden[:2, 0], ids), plain_logits(model)[:2, 0].gather(1, ids))


def test_logits_of_a_trained_llama_are_those_of_the_model(shared):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shared / "models" / "stories260K-llama").eval()
    head = LanguageHead(model)
    assert torch.equal(head.logits(head.hidden_states(INPUTS)[ASKED]), model(**INPUTS).logits[ASKED])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_autocast_and_recomputed_activations_make_no_difference(checkpointing):
    model = language_model("gpt2", lora("gpt2"), gradient_checkpointing=checkpointing).train()
    head = LanguageHead(model)
    assert model.training
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


def test_the_head_sees_a_single_row_while_hidden_states_are_made():
    model = language_model("llama")
    head = LanguageHead(model)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    head.hidden_states(INPUTS)
    head.logits(torch.zeros(2, model.config.hidden_size))
    assert seen == [(1, 1, 128), (1, 2, 128)]


def test_no_cache_is_kept():
    model = language_model("llama")
    head = LanguageHead(model)
    asked = []
    model.model.register_forward_pre_hook(
        lambda module, inputs, named: asked.append(named["use_cache"]), with_kwargs=True
    )
    head.hidden_states(INPUTS)
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
    trained = [p for p in model.parameters() if p.requires_grad]
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(VOCABULARY, (int(ASKED.sum()),), generator=chance)
    labels[:3] = plain_logits(model)[ASKED][:3].argmax(-1)
    total, right = head.loss(head.hidden_states(INPUTS)[ASKED], labels)
    logits = plain_logits(model)[ASKED]
    expected = F.cross_entropy(logits, labels, reduction="sum")
    assert int(right) == int((logits.argmax(-1) == labels).sum()) >= 3
    assert not right.requires_grad
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(total, trained), torch.autograd.grad(expected, trained), strict=True):
        assert (ours - theirs).norm() < 1e-6 * theirs.norm()


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
def test_label_logits_are_those_of_the_model(family):
    model = language_model(family, lora(family))
    head = LanguageHead(model)
    rows, ids = head.hidden_states(INPUTS)[:, 2], torch.tensor([[1, 5], [5, 6], [0, 39]])
    trained = [p for p in model.parameters() if p.requires_grad]
    got, expected = head.label_logits(rows, ids), plain_logits(model)[:, 2].gather(1, ids)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(got.square().sum(), trained),
        torch.autograd.grad(expected.square().sum(), trained),
        strict=True,
    ):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_label_logits_have_the_bias_of_their_words():
    model = language_model("llama")
    model.lm_head.bias = nn.Parameter(torch.arange(VOCABULARY) / 10)
    head, ids = LanguageHead(model), torch.tensor([[1, 5], [5, 6], [0, 39]])
    expected = plain_logits(model)[:, 2].gather(1, ids)
    assert head._words_alone
    torch.testing.assert_close(head.label_logits(head.hidden_states(INPUTS)[:, 2], ids), expected)


def test_what_a_model_adds_behind_its_matrix_is_not_left_out():
    model = language_model("llama")
    shift = torch.arange(VOCABULARY) / 1000
    model.register_forward_hook(lambda module, inputs, output: SimpleNamespace(logits=output.logits + shift))
    head, ids = LanguageHead(model), torch.tensor([[1, 5], [5, 6], [0, 39]])
    expected = plain_logits(model)[:, 2].gather(1, ids)
    torch.testing.assert_close(head.label_logits(head.hidden_states(INPUTS)[:, 2], ids), expected)


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
        self.named = named
        self.words = nn.Embedding(VOCABULARY, 4)

    def forward(self, input_ids):
        hidden = self.words(input_ids)
        return BaseModelOutput(last_hidden_state=hidden) if self.named else (hidden,)


class Headstrong(nn.Module):
    """A model whose head looks at more than its body's hidden states."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.base_model = Body(named)
        self.matrix = nn.Linear(4, VOCABULARY)

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
    rows = head.hidden_states(INPUTS)[ASKED]
    expected = model(**INPUTS).logits[ASKED]
    assert torch.equal(head.logits(rows), expected)
    ids = torch.ones(len(rows), 2, dtype=torch.int64)
    assert torch.equal(head.label_logits(rows, ids), expected.gather(1, ids))
    torch.testing.assert_close(head.loss(rows, ids[:, 0])[0], F.cross_entropy(expected, ids[:, 0], reduction="sum"))


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*[(family, way) for family in ("gpt2", "llama", "qwen3") for way in ("sdpa", "eager")], ("gemma2", "eager")],
)
def test_rows_branch_where_attention_takes_a_mask(family, implementation):
    assert LanguageHead(language_model(family, attn_implementation=implementation)).branching_limit > 1000


@pytest.mark.parametrize(
    ("family", "implementation"),
    [*[(family, way) for family in ("gpt2", "llama", "qwen3") for way in ("sdpa", "eager")], ("gemma2", "eager")],
)
def test_sequences_of_a_row_are_kept_apart_where_positions_start_anew(family, implementation):
    assert LanguageHead(language_model(family, attn_implementation=implementation)).keeps_apart


def test_a_model_that_does_not_go_by_positions_does_not_keep_sequences_apart(monkeypatch):
    model = language_model("gpt2")
    true_forward = model.transformer.forward

    def forward(input_ids, *, position_ids=None, **others):
        return true_forward(input_ids, **others)

    monkeypatch.setattr(model.transformer, "forward", forward)
    assert not LanguageHead(model).keeps_apart


@pytest.mark.parametrize("broken", ["mask", "positions"])
def test_rows_do_not_branch_where_the_model_goes_by_something_else(broken, monkeypatch, caplog):
    model = language_model("gpt2")
    head = LanguageHead(model)
    true_forward = model.transformer.forward

    def forward(input_ids, *, attention_mask, position_ids, **others):
        mask = None if broken == "mask" else attention_mask
        positions = None if broken == "positions" else position_ids
        return true_forward(input_ids, attention_mask=mask, position_ids=positions, **others)

    monkeypatch.setattr(model.transformer, "forward", forward)
    with caplog.at_level(logging.INFO):
        assert head.branching_limit == head.branching_limit == 0
    assert [record.getMessage() for record in caplog.records] == [
        "GPT2LMHeadModel: rows of more than 0 tokens cannot branch; labels get rows of their own"
    ]


def test_rows_that_reach_beyond_a_window_do_not_branch():
    assert LanguageHead(language_model("gemma2", overrides={"sliding_window": 6})).branching_limit == 6


@pytest.mark.parametrize("name", ["prompt", "p", "prefix"])
def test_rows_behind_virtual_tokens_do_not_branch(name):
    assert LanguageHead(language_model("llama", adapter(name, "llama"))).branching_limit == 0
