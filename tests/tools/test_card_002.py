"""The causes behind a macro-F1 of 0.21: how answers are parsed and counted, and that mending them gains something."""

from __future__ import annotations

import json
import sys

import pytest

from peftlit.data import ChatFiles
from tools import card_002


def test_an_answer_is_the_word_that_it_begins_with() -> None:
    labels = {" sad": 0, " okay.": 1, "\n Happy to see": 2, " unhappy": None, " so sad": None, "": None, "!!": None}
    assert {answer: card_002.parse(answer) for answer in labels} == labels


def test_always_the_same_answer_has_the_score_of_one_class() -> None:
    outcome = card_002.scored([0, 1, 1, 2], [1, 1, 1, 1])
    assert outcome.f1 == pytest.approx((0 + 2 / 3 + 0) / 3)
    assert outcome.accuracy == 0.5


def test_the_table_has_means_and_ranges() -> None:
    outcomes = {
        "one": [card_002.Outcome(0.2, 0.4, 0.5), card_002.Outcome(0.3, 0.6, 0.7)],
        "other": [card_002.Outcome(0.5, 0.5, None)],
    }
    lines = card_002.table(outcomes).splitlines()
    assert lines[2:] == [
        "| one | 0.2500 | 0.2000 to 0.3000 | 0.5000 | 60.0 % |",
        "| other | 0.5000 | 0.5000 to 0.5000 | 0.5000 | - |",
    ]


def test_tweets_become_conversations_that_a_recipe_can_learn(tmp_path, monkeypatch) -> None:
    for split in card_002.SPLITS:
        card_002.write(tmp_path / f"{split}.jsonl", [{"text": f"fine {split}", "label": 2}, {"text": "ok", "label": 1}])
    arguments = ["card_002", "--data_dir", str(tmp_path), "--rows", str(tmp_path / "chats")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert card_002.main() == 0
    files = {f"{split}_file": str(tmp_path / "chats" / f"{split}.jsonl") for split in card_002.SPLITS}
    rows = ChatFiles(**files).read()["train"]
    (messages,) = json.loads(rows["text"][0])[:1]
    assert [turn["role"] for turn in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "fine train"
    assert messages[2]["content"] == "positive"


@pytest.mark.slow
def test_what_the_card_does_with_few_rows_is_always_the_same_answer(shared, tmp_path) -> None:
    data, most = shared / "data/tweet_sentiment", {"train": 160, "validation": 50, "test": 300}
    rows = {split: card_002.read(data / f"{split}.jsonl", most[split]) for split in card_002.SPLITS}
    trial = card_002.Trial(tmp_path, shared / "models/stories260K-llama", rows, epochs=1, seed=42)
    true = [row["label"] for row in rows["test"]]
    same_answer = card_002.scored(true, [card_002.ELSE] * len(true))
    as_the_card = trial.generated(completion_only=False)
    assert as_the_card.parsed is not None
    assert as_the_card.parsed < 0.1
    assert as_the_card.f1 == pytest.approx(same_answer.f1, abs=0.02)  # one class, and macro-F1 0.21
    assert trial.generated(completion_only=True).f1 > as_the_card.f1 + 0.03
    assert trial.by_likelihood(train=False).f1 > as_the_card.f1 + 0.03
    assert trial.by_likelihood().f1 > as_the_card.f1 + 0.03
