from __future__ import annotations

import json

import pytest
import torch

from peftlit.errors import ConfigError
from peftlit.modules.losses import BinaryCrossEntropy, CrossEntropy, FocalLoss, Loss, MeanSquaredError
from peftlit.modules.problems import Binary, MultiLabel, Regression, SingleLabel, make_problem

SINGLE, MULTI, NUMBER = "single_label_classification", "multi_label_classification", "regression"


class Own(Loss):
    def forward(self, logits, labels):
        return logits.sum(), logits.new_tensor(1.0)


@pytest.mark.parametrize(
    ("problem_type", "names", "loss", "problem", "criterion"),
    [
        (SINGLE, "abc", None, SingleLabel, CrossEntropy),
        (SINGLE, "ab", FocalLoss(), SingleLabel, FocalLoss),
        (SINGLE, "ab", BinaryCrossEntropy(), Binary, BinaryCrossEntropy),
        (MULTI, "ab", None, MultiLabel, BinaryCrossEntropy),
        (NUMBER, "a", None, Regression, MeanSquaredError),
        (NUMBER, "a", Own(), Regression, Own),
    ],
)
def test_problem_and_loss_go_together(problem_type, names, loss, problem, criterion):
    assert [*map(type, make_problem(problem_type, names, loss))] == [problem, criterion]


@pytest.mark.parametrize(
    ("problem_type", "names", "loss", "said"),
    [
        (SINGLE, "abc", BinaryCrossEntropy(), "tells two classes apart, the data has 3"),
        (SINGLE, "ab", MeanSquaredError(), "does not fit single_label_classification; use CrossEntropy"),
        (MULTI, "ab", CrossEntropy(), "does not fit multi_label_classification; use BinaryCrossEntropy"),
        ("ranking", "ab", None, "data.problem_type: got 'ranking', needs one of single_label_classification, multi"),
        (NUMBER, "a", CrossEntropy(), "does not fit regression; use MeanSquaredError"),
    ],
)
def test_an_unknown_problem_or_a_loss_of_another_is_refused(problem_type, names, loss, said):
    with pytest.raises(ConfigError, match=said):
        make_problem(problem_type, names, loss)


def test_one_logit_gives_two_probabilities():
    problem = Binary(["no", "yes"])
    logits = torch.tensor([[-40.0], [0.0], [2.0]])
    answers = problem.answers(logits)
    torch.testing.assert_close(answers.sum(-1), torch.ones(3))
    torch.testing.assert_close(answers[:, 1], torch.sigmoid(logits[:, 0]))
    torch.testing.assert_close(answers[2], torch.tensor([[0.0, 2.0]]).softmax(-1)[0])
    assert problem.label_map() == {"id2label": {0: "yes"}, "label2id": {"yes": 0}, "problem_type": SINGLE}


def test_a_row_of_each_problem_is_told_in_words_and_spelled_for_the_table():
    single, many, number = SingleLabel("ab"), MultiLabel("abc"), Regression(["stars"])
    assert single.say(torch.tensor([0.15, 0.85])) == {"label": "b", "probabilities": {"a": 0.15, "b": 0.85}}
    assert single.columns() == ["label", "prediction", "prob_a", "prob_b"]
    assert single.to_csv(torch.tensor([0.25, 0.75]), torch.tensor(0)) == ["a", "b", "0.25", "0.75"]
    probabilities = {"a": 0.75, "b": 0.5, "c": 0.25}
    assert many.say(torch.tensor([0.75, 0.5, 0.25])) == {"labels": ["a", "b"], "probabilities": probabilities}
    assert many.to_csv(torch.tensor([0.75, 0.5, 0.25]), torch.tensor([0.0, 1.0, 1.0]))[:2] == ["b;c", "a;b"]
    assert many.to_csv(torch.tensor([0.1, 0.1, 0.1]), torch.zeros(3))[:2] == ["", ""]
    assert number.say(torch.tensor(0.85)) == {"value": 0.85}
    assert number.columns() == ["label", "prediction"]
    assert number.to_csv(torch.tensor(2.5), torch.tensor(3.0)) == ["3", "2.5"]
    assert number.to_csv(torch.tensor(0.85), torch.tensor(1e-8)) == ["1e-08", "0.85"]


def test_thresholds_decide_and_are_recorded():
    problem = MultiLabel("ab")
    metrics = problem.metrics("macro", tuned=True)
    problem.thresholds.copy_(torch.tensor([0.25, 0.875]))
    answer = torch.tensor([0.3, 0.8])
    assert problem.say(answer)["labels"] == ["a"]
    metrics.update(answer[None], torch.tensor([[1.0, 0.0]]))
    assert float(metrics.compute()["accuracy"]) == 1.0
    assert json.loads(json.dumps(problem.record()))["thresholds"] == [0.25, 0.875]
