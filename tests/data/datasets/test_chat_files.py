from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace

import datasets
import pyarrow
import pyarrow.parquet

from peftlit.batch import IGNORE_INDEX
from peftlit.data import ChatFiles
from tests.data.helpers import WHOLE, refusal, write_jsonl
from tests.data.language_data import TEMPLATE, chat_files, learned, other_tokenizer, turns

END = 1  # of the tiny decoder
CHAT = [{"messages": turns("is it good ?", "very good")}, {"messages": turns("the plot", "dull", "why", "it was long")}]
TEXTS = [{"prompt": "the film", "completion": " was good"}, {"prompt": "a book", "completion": " is long and dull"}]
YES = {"role": "assistant", "content": "very good"}
SPLIT = [{"prompt": turns("is it good ?"), "completion": [YES]}]


def encoded(data: ChatFiles) -> list[dict]:
    data.setup("fit")
    return list(data._encoded["train"])


def read(data: ChatFiles) -> list[list]:
    return list(map(json.loads, data.read()["train"]["text"][:]))


def runs(data: ChatFiles, row: dict) -> list[str]:
    """Each run of a row's tokens that is learned."""
    found: list[list[int]] = []
    for before, label in zip([IGNORE_INDEX, *row["labels"]], row["labels"], strict=False):
        if before == IGNORE_INDEX != label:
            found.append([])
        if label != IGNORE_INDEX:
            found[-1].append(label)
    return [data.get_tokenizer().decode(run) for run in found]


def test_what_the_assistant_says_or_the_completion_is_learned_and_on_demand_every_token(tmp_path, decoder):
    both = [{**chat, **text} for chat, text in zip(CHAT, TEXTS, strict=True)]
    answers = [["very good </s>"], ["dull </s>", "it was long </s>"]]
    for rows, template, expected in (
        (CHAT, TEMPLATE, answers),
        (both, TEMPLATE, answers),  # messages count
        (SPLIT, TEMPLATE, [["very good </s>"]]),
        (TEXTS, None, [["was good </s>"], ["is long and dull </s>"]]),
    ):
        data = chat_files(tmp_path, rows, tokenizer=decoder, chat_template=template)
        assert [runs(data, row) for row in encoded(data)] == expected
        assert data.prompt_record == {"chat": template is not None}
        whole = encoded(chat_files(tmp_path, rows, tokenizer=decoder, chat_template=template, completion_only=False))
        assert [row["labels"] for row in whole] == [[IGNORE_INDEX, *row["input_ids"][1:]] for row in whole]
        assert [row["input_ids"] for row in whole] == [row["input_ids"] for row in encoded(data)]


def test_columns_go_by_the_names_that_are_told_whatever_the_kind_of_file(tmp_path):
    asked = [{"q": row["prompt"], "a": row["completion"]} for row in TEXTS]
    for rows, given, columns in (
        (asked, TEXTS, {"prompt_column": "q", "completion_column": "a"}),
        ([{"talk": row["messages"]} for row in CHAT], CHAT, {"messages_column": "talk"}),
    ):
        expected, file = read(chat_files(tmp_path, given)), str(tmp_path / "rows.parquet")
        assert read(chat_files(tmp_path, rows, **columns)) == expected
        datasets.Dataset.from_list(rows).to_parquet(file)
        assert read(ChatFiles(train_file=file, **WHOLE, **columns)) == expected


def test_all_that_is_said_is_cleaned_and_the_space_between_prompt_and_completion_stays(tmp_path):
    steps = ["html", "tags"]
    for row, cleaned in (
        ({"messages": turns("a &amp; b", "<b>good")}, [turns("a & b", " good"), None]),
        ({**SPLIT[0], "prompt": turns("a &amp; b")}, [turns("a & b"), [YES]]),
        ({"prompt": "a &lt;", "completion": " <i>b"}, ["a <", "  b"]),
    ):
        data = chat_files(tmp_path, [row], cleaning_steps=steps)
        assert read(data) == [cleaned]
    assert data.manifest()["cleaning"] == {"html": 1, "tags": 1}
    spaced = [(" the film", " was  good "), ("the film ", "was good"), ("the film<br>", "was good")]
    rows = [{"prompt": prompt, "completion": rest} for prompt, rest in [*spaced, ("film", "s"), ("a <", "b>")]]
    cleaned = read(chat_files(tmp_path, rows, cleaning_steps=[*steps, "whitespace"]))
    assert cleaned == [*[["the film", " was good"]] * 3, ["film", "s"], ["a <", "b>"]]


def test_rows_that_repeat_are_found_whatever_their_form(tmp_path):
    for rows in (CHAT, TEXTS, SPLIT):
        report = chat_files(tmp_path, [*rows, rows[0]]).manifest()["splits"]["train"]
        assert report["duplicate_rows"] == [len(rows) + 1]
        assert refusal(chat_files(tmp_path, [*rows, rows[0]], strict=True).read).endswith("(1 do; strict)")


LIST = "needs a list with role and content in each"
REFUSED = [
    ({"messages": []}, f"messages is [], {LIST}"),
    ({"messages": None}, f"messages is None, {LIST}"),
    ({"messages": "hello"}, f"messages is 'hello', {LIST}"),
    ({"messages": turns("a")}, "the last message is the user's, needs the assistant's there"),
    ({"messages": [*turns("a"), {"role": "assistant"}]}, "content of message 2 is None, needs a text"),
    ({"messages": [*turns("a"), {"from": "gpt", "value": "b"}]}, "message 2 has role None, needs system, user"),
    ({"prompt": "a", "completion": None}, "completion is None, needs a text"),
    ({"prompt": 3, "completion": "b"}, "prompt is 3, needs a text"),
    ({"prompt": turns("a"), "completion": "b"}, "prompt is [{"),
    ({"prompt": "a", "completion": [YES]}, "completion is [{"),
    ({"prompt": turns("a", "b"), "completion": [YES]}, "message 3 is the assistant's, needs the user's"),
    ({"prompt": turns("a"), "completion": []}, "the last message is the user's, needs the assistant's there"),
]


def test_a_bad_row_is_refused_with_file_and_row_before_a_tokenizer_is_there(tmp_path):
    for row, said in REFUSED:
        # alone in a file, and behind a row that is as it should be: what is in a column is looked at row by row
        good = CHAT[0] if "messages" in row else TEXTS[0] if isinstance(row["prompt"], (str, int)) else SPLIT[0]
        for rows, number in (([row], 1), ([good, row], 2)):
            data = chat_files(tmp_path, rows)
            assert data.tokenizer is None
            message = refusal(data.read)
            assert message.startswith(f"{tmp_path / 'train.jsonl'}, row {number}: {said}"), message


def test_bytes_that_are_no_text_are_named_by_row_and_column(tmp_path):
    texts = pyarrow.array([*[b"good"] * 1030, b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["the"] * 1031, "completion": texts}), tmp_path / "a.parquet")
    data = ChatFiles(train_file=str(tmp_path / "a.parquet"))
    assert refusal(data.read) == f"{tmp_path}/a.parquet, row 1031: completion holds bytes that are not UTF-8"


def test_texts_and_conversations_do_not_mix(tmp_path):
    text = "a text, and the first training row is a conversation; use one or the other"
    chat = "a conversation, and the first training row is a text; use one or the other"
    for first, second, said in ((TEXTS, SPLIT, chat), (SPLIT, TEXTS, text), (TEXTS, CHAT, chat)):
        test_file = write_jsonl(tmp_path / "test.jsonl", second)
        assert refusal(chat_files(tmp_path, first, test_file=test_file).read) == f"{test_file}, row 1: {said}"


def test_missing_columns_are_refused_with_the_nearest(tmp_path):
    assert refusal(chat_files(tmp_path, [{"prompt": "a", "completions": "b"}]).read) == (
        f"{tmp_path / 'train.jsonl'}: no column 'completion'; did you mean 'completions'? its columns are prompt, "
        "completions"
    )


def test_rows_are_tokenized_in_several_processes_under_a_trainer(tmp_path, decoder):
    rows = [{"prompt": f"the film {i}", "completion": " was"} for i in range(20)]
    data = chat_files(tmp_path, rows, tokenizer=decoder, num_proc=2)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, lock=threading.Lock())  # no way to pickle it
    data.prepare_data()
    data.setup("fit")
    assert len(data._encoded["train"]) == 20


def test_a_prompt_that_just_leaves_room_for_a_token_is_taken(tmp_path, decoder):
    rows = [{"prompt": "film " * 7, "completion": " good and long"}]
    (row,) = encoded(chat_files(tmp_path, rows, tokenizer=decoder, max_length=8))
    assert row["labels"][:7] == [IGNORE_INDEX] * 7
    assert row["labels"][7] == row["input_ids"][7] != IGNORE_INDEX
    assert refusal(chat_files(tmp_path, rows, tokenizer=decoder, max_length=7).prepare_data) == (
        f"{tmp_path / 'train.jsonl'}, row 1: the prompt alone is longer than the window of 7 tokens; raise "
        "data.max_length, shorten it, or set data.long: drop"
    )


def test_rows_without_room_for_an_answer_are_dropped_and_counted_where_asked(tmp_path, decoder, caplog):
    rows = [*TEXTS, {"prompt": "film " * 40, "completion": " good"}]
    data = chat_files(tmp_path, rows, tokenizer=decoder, max_length=10, long="drop")
    with caplog.at_level(logging.WARNING, "peftlit"):
        found = encoded(data)
    assert caplog.messages == ["train: 1 of 3 rows dropped, whose prompt alone fills the window of 10 tokens"]
    assert [row["row"] for row in found] == [1, 2]
    assert (data.rows_scored("train"), data.lengths["train"]["rows"]) == (2, 2)
    nothing = chat_files(tmp_path, rows[-1:], tokenizer=decoder, max_length=10, long="drop")
    assert refusal(nothing.prepare_data) == (
        f"{tmp_path / 'train.jsonl'}: every prompt alone fills data.max_length; raise it"
    )


def test_long_rows_are_cut_behind_and_counted(tmp_path, decoder, caplog):
    rows = [*TEXTS, {"prompt": "the film", "completion": " good" * 30}]
    data = chat_files(tmp_path, rows, tokenizer=decoder, max_length=10)
    with caplog.at_level(logging.INFO, "peftlit"):
        found = encoded(data)
    assert "longest 33; 1 rows (33.3 %) cut to 10" in caplog.text
    assert (data.lengths["train"]["cut"], data.lengths["train"]["longest"]) == (1, 33)
    assert [row["length"] for row in found] == [5, 7, 10]
    assert END not in found[2]["input_ids"], "what is cut does not end"


def test_completions_within_a_token_are_counted_by_split(tmp_path, shared, caplog):
    merged = [{"prompt": "a ca", "completion": "t"}, {"prompt": "a cat", "completion": " sat"}]
    test = write_jsonl(tmp_path / "test.jsonl", [*merged, merged[0]])
    data = chat_files(tmp_path, merged, test_file=test, tokenizer=str(shared / "models" / "stories260K-llama"))
    with caplog.at_level(logging.INFO, "peftlit"):
        data.prepare_data()
    for said in ("train: 1", "test: 2"):
        assert f"{said} completions begin within a token of the whole text" in caplog.text


def test_the_cache_is_not_used_for_anything_else(tmp_path, decoder):
    plain = {"tokenizer": decoder, "chat_template": TEMPLATE}
    before = encoded(chat_files(tmp_path, CHAT, **plain))
    for change in ({"chat_template": "the film " + TEMPLATE}, {"completion_only": False}, {"max_length": 12}):
        assert encoded(chat_files(tmp_path, CHAT, **{**plain, **change})) != before
    for folder, end in ((decoder, END), (other_tokenizer(decoder, tmp_path / "other", eos_token="[UNK]"), 0)):
        texts = encoded(chat_files(tmp_path, TEXTS, tokenizer=folder))
        assert {row["input_ids"][-1] for row in texts} == {end}


def test_packed_rows_keep_every_label_and_their_own_positions(tmp_path, decoder):
    rows = [{"prompt": f"the film {i}", "completion": " was" * (i % 7 + 1)} for i in range(40)]
    plain = encoded(chat_files(tmp_path, rows, tokenizer=decoder))
    data = chat_files(tmp_path, rows, tokenizer=decoder, packing=True)
    packed = encoded(data)
    assert len(packed) < len(plain) / 2
    assert sorted(learned(row["labels"] for row in packed)) == sorted(learned(row["labels"] for row in plain))
    assert all(row["length"] <= 32 for row in packed)
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "position_ids", "row"}


def test_probes_are_the_beginnings_of_what_is_said(tmp_path):
    for rows, expected in (
        ([{"prompt": "x" * 500, "completion": "b"}, TEXTS[0]], ["x" * 200, "the film"]),
        (SPLIT, [[{"role": "user", "content": "is it good ?"}]]),
        ([{"prompt": "", "completion": "b"}], ["Hello."]),
    ):
        assert chat_files(tmp_path, rows).probe() == expected
