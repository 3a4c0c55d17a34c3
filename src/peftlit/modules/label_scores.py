"""How likely each label is after a prompt.

A label is a sequence of tokens. Its score is the logit of its first token, or the log-likelihood of all of them. For
the latter, all labels stand in one row behind their prompt, which is computed once::

    prompt prompt prompt | label 1 label 1 | label 2 label 2

Each label sees the prompt and itself, and counts its positions from the prompt's end: the row branches. For a model
without such masks, each label gets a row of its own.

Prompts are ``input_ids`` and ``attention_mask``, (B, T), padded on either side; label tokens are (B, K, L), filled up
with ``IGNORE_INDEX``. Letters: ``B`` rows in the batch, ``T`` tokens of the longest prompt, ``K`` labels, ``L`` tokens
of the longest label, ``H`` hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from peftlit.batch import IGNORE_INDEX, Batch
from peftlit.modules.language_head import LanguageHead


def first_token_scores(head: LanguageHead, inputs: dict[str, Tensor], label_tokens: Tensor) -> Tensor:
    """Return the logit of each label's first token after the prompt, (B, K) float32."""
    return head.label_logits(_last_states(head, inputs), label_tokens[:, :, 0]).float()


def sequence_scores(head: LanguageHead, inputs: dict[str, Tensor], label_tokens: Tensor) -> Tensor:
    """Return the log-likelihood of each label's tokens after the prompt, (B, K) float32."""
    if label_tokens.shape[2] == 1:  # nothing follows the first token: the prompt says it all
        return head.log_likelihoods(_last_states(head, inputs), label_tokens[:, :, 0])
    if inputs["input_ids"].shape[1] + label_tokens.shape[2] <= head.branching_limit:
        return _scores_in_one_row(head, inputs, label_tokens)
    return _scores_in_own_rows(head, inputs, label_tokens)


def join(inputs: dict[str, Tensor], label_tokens: Tensor, *, pad_token_id: int = 0) -> Batch:
    """Put each label behind its prompt, in a row of its own (B * K rows), with the padding on the right.

    Returns:
        A batch whose ``labels`` are ``IGNORE_INDEX`` at all tokens but those of the label.
    """
    num_labels = label_tokens.shape[1]
    prompts, mask = (inputs[name].repeat_interleave(num_labels, 0) for name in ("input_ids", "attention_mask"))
    labels = label_tokens.flatten(0, 1)
    mask = torch.cat([mask, (labels != IGNORE_INDEX).to(mask.dtype)], 1)
    order = _padding_last(mask)[:, : int(mask.sum(1).max())]
    mask = mask.gather(1, order)
    ids = torch.cat([prompts, labels], 1).gather(1, order)
    return {
        "input_ids": ids.masked_fill(mask == 0, pad_token_id),
        "attention_mask": mask,
        "labels": torch.cat([torch.full_like(prompts, IGNORE_INDEX), labels], 1)
        .gather(1, order)
        .masked_fill(mask == 0, IGNORE_INDEX),
    }


def _padding_last(mask: Tensor) -> Tensor:
    """Return the order that moves padding to the right and keeps the order of tokens, (B, T)."""
    return mask.argsort(dim=1, descending=True, stable=True)


def _left_aligned(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move padding to the right, where it shifts no positions, those of virtual tokens included."""
    order = _padding_last(inputs["attention_mask"])
    return {name: inputs[name].gather(1, order) for name in ("input_ids", "attention_mask")}


def _last_states(head: LanguageHead, inputs: dict[str, Tensor]) -> Tensor:
    """Return the hidden states (B, H) at the prompts' last tokens."""
    aligned = _left_aligned(inputs)
    last = aligned["attention_mask"].sum(1) - 1
    return head.hidden_states(aligned)[torch.arange(len(last), device=last.device), last]


def _scores_in_own_rows(head: LanguageHead, inputs: dict[str, Tensor], label_tokens: Tensor) -> Tensor:
    joined = join(inputs, label_tokens)
    hidden = head.hidden_states({name: joined[name] for name in ("input_ids", "attention_mask")})
    labels = joined["labels"][:, 1:]
    asked = labels != IGNORE_INDEX
    likelihoods = head.log_likelihoods(hidden[:, :-1][asked], labels[asked].unsqueeze(1))
    return _sum_over_tokens(likelihoods, asked).view(label_tokens.shape[:2])


def _scores_in_one_row(head: LanguageHead, inputs: dict[str, Tensor], label_tokens: Tensor) -> Tensor:
    num_rows, num_labels, _ = label_tokens.shape
    fed, asked_for = label_tokens[:, :, :-1], label_tokens[:, :, 1:]  # a label's last token predicts nothing
    aligned = _left_aligned(inputs)
    prompts, mask = aligned["input_ids"], aligned["attention_mask"]
    lengths = mask.sum(1)
    steps = torch.arange(fed.shape[2], device=fed.device)
    branches = torch.arange(1, num_labels + 1, device=fed.device).repeat_interleave(len(steps))
    start = torch.arange(prompts.shape[1], device=fed.device)
    branching = {
        "input_ids": torch.cat([prompts, fed.clamp(min=0).flatten(1)], 1),
        "attention_mask": head.branching_mask(_seen(mask, branches)),
        "position_ids": torch.cat([start.expand_as(prompts), lengths.unsqueeze(1) + steps.repeat(num_labels)], 1),
    }
    hidden = head.hidden_states(branching)
    last = hidden[torch.arange(num_rows, device=fed.device), lengths - 1]
    first_tokens = head.log_likelihoods(last, label_tokens[:, :, 0])
    states = hidden[:, prompts.shape[1] :].unflatten(1, fed.shape[1:])
    asked = asked_for != IGNORE_INDEX
    likelihoods = head.log_likelihoods(states[asked], asked_for[asked].unsqueeze(1))
    return first_tokens + _sum_over_tokens(likelihoods, asked.flatten(0, 1)).view_as(first_tokens)


def _seen(mask: Tensor, branches: Tensor) -> Tensor:
    """Return which token sees which, (B, S, S) bool, in rows of S tokens: prompts, then branches.

    Args:
        mask: The prompts' attention mask, (B, T), padding on the right: every token sees at least the prompt's first.
        branches: Number of the label that a token behind the prompt belongs to, from 1, (S - T,).
    """
    branch = torch.cat([branches.new_zeros(mask.shape[1]), branches])
    related = (branch == 0) | (branch == branch.unsqueeze(1))
    backwards = torch.ones_like(related).tril()
    tokens = torch.cat([mask.bool(), torch.ones(len(mask), len(branches), dtype=torch.bool, device=mask.device)], 1)
    return related & backwards & tokens.unsqueeze(1)


def _sum_over_tokens(values: Tensor, asked: Tensor) -> Tensor:
    """Return the sums (N,) over each row of the values where ``asked`` (N, tokens) is true; without any, 0."""
    rows = asked.nonzero()[:, 0]
    return torch.zeros(len(asked), device=values.device).index_add(0, rows, values.squeeze(1))
