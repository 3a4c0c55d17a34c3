"""The causes behind a macro-F1 of 0.21: how answers are parsed and counted, and that mending them gains something."""

from __future__ import annotations

import json
import sys

import pytest

from peftlit.data import ChatFiles
from tools import card_002


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (" sad", 0),
        (" okay.", 1),
        ("\n Happy to see", 2),
        (" unhappy", None),
        (" so sad", None),
        ("", None),
        ("!!", None),
    ],
)
def test_an_answer_is_the_word_that_it_begins_with(answer: str, label: int | None) -> None:
    assert card_002.parse(answer) == label


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
