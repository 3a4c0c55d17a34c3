from __future__ import annotations

import math

import pytest
import torch
from peftlit.modules.token_scores import TokenScores


def scores_of(batches: list[torch.Tensor], right: int = 0) -> TokenScores:
    scores = TokenScores()
    for losses in batches:
        scores.update(losses.sum(), torch.tensor(len(losses)), torch.tensor(right))
    return scores


def test_perplexity_over_unequal_batches_is_that_of_all_tokens():
    chance = torch.Generator().manual_seed(0)
    losses = torch.rand(1000, generator=chance, dtype=torch.float64) * 6
    scalars, told = scores_of(list(losses.split([1, 700, 2, 297])), right=3).compute()
    assert scalars["loss"] == pytest.approx(float(losses.sum()) / 1000, rel=1e-14)
    assert scalars["perplexity"] == pytest.approx(math.exp(float(losses.sum()) / 1000), rel=1e-13)
    assert scalars["accuracy"] == pytest.approx(12 / 1000)
    assert told == {"tokens": 1000}


def test_sums_over_many_batches_lose_no_digit():
    """In float32, 5.1 added to a sum of a million would be off by a hundredth."""
    scores = TokenScores()
    total = torch.tensor(1e6, dtype=torch.float64)
    scores.update(total, torch.tensor(200_000), torch.tensor(0))
    for _ in range(100):
        scores.update(torch.tensor(5.1), torch.tensor(1), torch.tensor(0))
    expected = (1e6 + 100 * float(torch.tensor(5.1))) / 200_100
    assert scores.compute()[0]["loss"] == pytest.approx(expected, rel=1e-13)


def test_a_hopeless_model_has_a_large_perplexity_and_not_an_error():
    scalars, _ = scores_of([torch.tensor([5000.0])]).compute()
    assert scalars["loss"] == 5000
    assert math.isfinite(scalars["perplexity"])


def test_no_tokens_give_no_number():
    scalars, told = TokenScores().compute()
    assert all(math.isnan(value) for value in scalars.values())
    assert told == {"tokens": 0}


def test_an_epoch_starts_anew():
    scores = scores_of([torch.tensor([1.0, 2.0])])
    scores.reset()
    scores.update(torch.tensor(4.0), torch.tensor(2), torch.tensor(1))
    assert scores.compute()[0] == pytest.approx({"loss": 2.0, "perplexity": math.exp(2), "accuracy": 0.5})


def test_what_is_computed_is_what_may_be_monitored():
    assert set(scores_of([torch.ones(2)]).compute()[0]) == {"loss", *TokenScores().directions()}


def test_tokens_are_counted_beyond_two_to_the_24():
    scores = TokenScores()
    for tokens, right in [(2**24, 2**24), (1, 1), (1, 1), (1, 0)]:
        scores.update(torch.tensor(0.0), torch.tensor(tokens), torch.tensor(right))
    scalars, told = scores.compute()
    assert told == {"tokens": 2**24 + 3}
    assert scalars["accuracy"] == (2**24 + 2) / (2**24 + 3)
