from __future__ import annotations

import math

import pytest
import torch

from peftlit.modules.metrics import SingleLabelMetrics
from peftlit.modules.scores import ClassScores, Scores, TokenScores
from tests.modules.cases import LABELS

ANSWERS = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)).softmax(-1)
ROWS = torch.arange(10) % 2


def class_scores(*batches: torch.Tensor, weight: float = 1.0) -> ClassScores:
    """Scores over batches of losses, whose rows follow one another."""
    scores, start = ClassScores(SingleLabelMetrics(LABELS)), 0
    for losses in batches:
        part = slice(start, start := start + len(losses))
        scores.update(losses.sum(), torch.tensor(weight * len(losses)), ANSWERS[part], ROWS[part])
    return scores


def token_scores(*batches: torch.Tensor, right: int = 0) -> TokenScores:
    scores = TokenScores()
    for losses in batches:
        scores.update(losses.sum(), torch.tensor(len(losses)), torch.tensor(right))
    return scores


def test_rows_in_unequal_batches_are_scored_as_all_at_once():
    losses = torch.rand(10, generator=torch.Generator().manual_seed(0))
    (found, told), (expected, extras) = (class_scores(*losses.split(s)).compute() for s in ([1, 6, 3], [10]))
    assert found == pytest.approx(expected, abs=1e-6)
    assert found["loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    assert told == extras
    assert told["rows"] == sum(map(sum, told["confusion_matrix"])) == 10


def test_tokens_in_unequal_batches_are_scored_as_all_at_once():
    losses = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6
    scalars, told = token_scores(*losses.split([1, 700, 2, 297]), right=3).compute()
    mean = float(losses.sum()) / 1000
    assert scalars == pytest.approx({"loss": mean, "perplexity": math.exp(mean), "accuracy": 12 / 1000}, rel=1e-13)
    assert told == {"tokens": 1000}
    assert set(scalars) == {"loss", *TokenScores().directions()}


@pytest.mark.parametrize("make", [class_scores, token_scores])
def test_an_epoch_starts_anew_and_keeps_no_graph(make):
    scores: Scores = make(torch.ones(4))
    scores.reset()
    outputs = (ANSWERS[:2], ROWS[:2]) if make is class_scores else (torch.tensor(1),)
    scores.update(torch.tensor(5.0, requires_grad=True), torch.tensor(2), *outputs)
    assert scores.compute()[0]["loss"] == 2.5
    assert list(scores.compute()[1].values())[0] == 2
    assert not any(getattr(value, "requires_grad", False) for value in scores.total.metric_state.values())


def test_rows_and_tokens_are_counted_beyond_two_to_the_24():
    rows, tokens = class_scores(), token_scores()
    rows.rows.update(2.0**24)
    for scores in (rows, tokens):
        scores.weight.update(2.0**24)
    tokens.right.update(2.0**24)
    for right in (1, 1, 0):
        rows.update(torch.ones(()), torch.ones(()), ANSWERS[:1], ROWS[:1])
        tokens.update(torch.ones(()), torch.ones(()), torch.tensor(right))
    for scores in (rows, tokens):
        assert list(scores.compute()[1].values())[0] == 2**24 + 3
        assert scores.compute()[0]["loss"] == 3 / (2**24 + 3)
    assert tokens.compute()[0]["accuracy"] == (2**24 + 2) / (2**24 + 3)


def test_sums_over_many_batches_lose_no_digit():
    scores = TokenScores()  # in float32, 5.1 added to a sum of a million would be off by a hundredth
    scores.update(torch.tensor(1e6, dtype=torch.float64), torch.tensor(200_000), torch.tensor(0))
    for _ in range(100):
        scores.update(torch.tensor(5.1), torch.tensor(1), torch.tensor(0))
    expected = (1e6 + 100 * float(torch.tensor(5.1))) / 200_100
    assert scores.compute()[0]["loss"] == pytest.approx(expected, rel=1e-13)


def test_what_is_no_number_is_no_error():
    assert math.isnan(class_scores(torch.tensor([1.0]), torch.tensor([math.nan])).compute()[0]["loss"])
    hopeless = token_scores(torch.tensor([5000.0])).compute()[0]
    assert hopeless["loss"] == 5000
    assert math.isfinite(hopeless["perplexity"])
    nothing, told = TokenScores().compute()
    assert all(math.isnan(value) for value in nothing.values())
    assert told == {"tokens": 0}
