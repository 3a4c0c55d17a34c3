from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from peftlit.batch import IGNORE_INDEX
from peftlit.data import ChatFiles
from peftlit.errors import ConfigError, DataError
from tests import tiny
from tests.data.helpers import refusal, write_jsonl
from tests.data.language_data import TEMPLATE, chat_files, turns

END = 1  # of the tiny decoder
CHAT = [{"messages": turns("is it good ?", "very good")}, {"messages": turns("the plot", "dull", "why", "it was long")}]
TEXTS = [{"prompt": "the film", "completion": " was good"}, {"prompt": "a book", "completion": " is long and dull"}]
SPLIT = [{"prompt": turns("is it good ?"), "completion": [{"role": "assistant", "content": "very good"}]}]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("decoder")
    tiny.write_tokenizer(folder, decoder=True)
    return str(folder)


def encoded(data: ChatFiles) -> list[dict]:
    data.setup("fit")
    return list(data._encoded["train"])


def spelt(data: ChatFiles, row: dict) -> tuple[str, list[str]]:
    """All that a row holds, and each run of it that is learned."""
    tokenizer, runs = data.get_tokenizer(), []
    for i, label in enumerate(row["labels"]):
        if label == IGNORE_INDEX:
            continue
        if not i or row["labels"][i - 1] == IGNORE_INDEX:
            runs.append([])
        runs[-1].append(label)
    return tokenizer.decode(row["input_ids"]), [tokenizer.decode(run) for run in runs]


def test_every_assistants_turn_of_messages_is_learned(tmp_path, decoder):
    data = chat_files(tmp_path, CHAT, tokenizer=decoder, chat_template=TEMPLATE)
    first, second = encoded(data)
    assert spelt(data, first)[1] == ["very good </s>"]
    assert spelt(data, second)[1] == ["dull </s>", "it was long </s>"]
    assert data.prompt_record == {"chat": True}


def test_of_texts_the_completion_and_one_end_are_learned(tmp_path, decoder):
    data = chat_files(tmp_path, TEXTS, tokenizer=decoder)
    first, second = encoded(data)
    assert spelt(data, first) == ("the film was good </s>", ["was good </s>"])
    assert spelt(data, second) == ("a book is long and dull </s>", ["is long and dull </s>"])
    assert data.prompt_record == {"chat": False}


def test_a_conversation_may_be_told_as_prompt_and_completion(tmp_path, decoder):
    whole = chat_files(tmp_path, CHAT[:1], tokenizer=decoder, chat_template=TEMPLATE)
    split = chat_files(tmp_path, SPLIT, tokenizer=decoder, chat_template=TEMPLATE)
    names = ("input_ids", "labels", "length", "tokens")
    assert [{n: r[n] for n in names} for r in encoded(split)] == [{n: r[n] for n in names} for r in encoded(whole)]
    assert split.prompt_record == {"chat": True}


def test_messages_count_where_rows_have_both(tmp_path, decoder):
    rows = [{**chat, **text} for chat, text in zip(CHAT, TEXTS, strict=True)]
    data = chat_files(tmp_path, rows, tokenizer=decoder, chat_template=TEMPLATE)
    assert spelt(data, encoded(data)[0])[1] == ["very good </s>"]


def test_every_token_is_learned_on_demand(tmp_path, decoder):
    data = chat_files(tmp_path, TEXTS, tokenizer=decoder, completion_only=False)
    for row in encoded(data):
        assert row["labels"] == [IGNORE_INDEX, *row["input_ids"][1:]]


def test_bytes_that_are_no_text_are_named_by_row_and_column(tmp_path, decoder):
    texts = pyarrow.array([*[b"good"] * 1030, b"caf\xe9"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["the"] * 1031, "completion": texts}), tmp_path / "a.parquet")
    data = ChatFiles(train_file=str(tmp_path / "a.parquet"), tokenizer=decoder)
    assert refusal(data.read) == f"{tmp_path}/a.parquet, row 1031: completion holds bytes that are not UTF-8"


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "tsv"])
def test_columns_go_by_the_names_that_are_told(tmp_path, decoder, ending):
    rows = datasets.Dataset.from_list([{"q": row["prompt"], "a": row["completion"]} for row in TEXTS])
    path = str(tmp_path / f"rows.{ending}")
    if ending == "jsonl":
        rows.to_json(path)
    elif ending == "parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, sep="\t" if ending == "tsv" else ",", index=False)
    data = ChatFiles(
        train_file=path,
        prompt_column="q",
        completion_column="a",
        validation_share=0.0,
        test_share=0.0,
        tokenizer=decoder,
    )
    assert [spelt(data, row)[1] for row in encoded(data)] == [["was good </s>"], ["is long and dull </s>"]]
    chat = chat_files(
        tmp_path, [{"talk": row["messages"]} for row in CHAT], messages_column="talk", tokenizer=decoder,
        chat_template=TEMPLATE,
    )  # fmt: skip
    assert spelt(chat, encoded(chat)[0])[1] == ["very good </s>"]


SPACED = [
    (" the film", " was  good "),
    ("the film ", "was good"),
    ("the film<br>", "was good"),
    ("film", "s"),
    ("a <", "b>"),
]


def test_all_that_is_said_is_cleaned_and_counted(tmp_path):
    steps = {"cleaning_steps": ["html", "tags"]}
    chat = chat_files(tmp_path, [{"messages": turns("a &amp; b", "<b>good")}], **steps)
    prompt, completion = json.loads(chat.read()["train"]["text"][0])
    assert [turn["content"] for turn in prompt] == ["a & b", " good"]
    assert completion is None
    texts = chat_files(tmp_path, [{"prompt": "a &lt;", "completion": " <i>b"}], **steps)
    assert json.loads(texts.read()["train"]["text"][0]) == ["a <", "  b"]
    split = chat_files(tmp_path, [{**SPLIT[0], "prompt": turns("a &amp; b")}], **steps)
    assert json.loads(split.read()["train"]["text"][0])[0] == turns("a & b")
    assert texts.manifest()["cleaning"] == {"html": 1, "tags": 1}


def test_cleaning_keeps_the_space_between_prompt_and_completion(tmp_path):
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in SPACED]
    data = chat_files(tmp_path, rows, cleaning_steps=["html", "tags", "whitespace"])
    assert list(map(json.loads, data.read()["train"]["text"][:])) == [
        ["the film", " was good"], ["the film", " was good"], ["the film", " was good"], ["film", "s"], ["a <", "b>"],
    ]  # fmt: skip


def test_rows_that_repeat_are_found_whatever_their_form(tmp_path):
    for rows in (CHAT, TEXTS, SPLIT):
        report = chat_files(tmp_path, [*rows, rows[0]]).manifest()["splits"]["train"]
        assert report["duplicate_rows"] == [len(rows) + 1]
        assert refusal(chat_files(tmp_path, [*rows, rows[0]], strict=True).read).endswith("(1 do; strict)")


ASSISTANT = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "messages is [], needs a list with role and content in each"),
        ({"messages": None}, "messages is None, needs a list with role and content in each"),
        ({"messages": "hello"}, "messages is 'hello', needs a list with role and content in each"),
        ({"messages": turns("a")}, "the last message is the user's, needs the assistant's there"),
        ({"messages": [ASSISTANT]}, "message 1 is the assistant's, needs the user's there"),
        ({"messages": [*turns("a"), {"role": "bot", "content": "b"}]}, "message 2 has role 'bot', needs system, user"),
        ({"messages": [*turns("a"), {"role": "assistant"}]}, "content of message 2 is None, needs a text"),
        ({"messages": [*turns("a"), {"from": "gpt", "value": "b"}]}, "message 2 has role None, needs system, user"),
        ({"prompt": "a", "completion": None}, "completion is None, needs a text"),
        ({"prompt": 3, "completion": "b"}, "prompt is 3, needs a text"),
        ({"prompt": turns("a"), "completion": "b"}, "prompt is [{"),
        ({"prompt": "a", "completion": [ASSISTANT]}, "completion is [{"),
        ({"prompt": turns("a", "b"), "completion": [ASSISTANT]}, "message 3 is the assistant's, needs the user's"),
        ({"prompt": turns("a"), "completion": []}, "the last message is the user's, needs the assistant's there"),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_with_file_and_row_before_a_tokenizer_is_there(tmp_path, row, said):
    # alone in a file, and behind a row that is as it should be: what is in a column is looked at row by row
    good = CHAT[0] if "messages" in row else TEXTS[0] if isinstance(row["prompt"], (str, int)) else SPLIT[0]
    for rows, number in (([row], 1), ([good, row], 2)):
        data = chat_files(tmp_path, rows)
        assert data.tokenizer is None
        message = refusal(data.read)
        assert message.startswith(f"{tmp_path / 'train.jsonl'}, row {number}: {said}"), message


def test_texts_and_conversations_do_not_mix(tmp_path):
    for rows in ([TEXTS[0], SPLIT[0]], [SPLIT[0], TEXTS[0]]):
        assert f"{tmp_path / 'train.jsonl'}" in refusal(chat_files(tmp_path, rows).read)
    for first, second in ((TEXTS, SPLIT), (SPLIT, TEXTS), (TEXTS, CHAT)):
        test_file = write_jsonl(tmp_path / "test.jsonl", second)
        message = refusal(chat_files(tmp_path, first, test_file=test_file).read)
        assert message.startswith(test_file)


def test_missing_columns_are_refused_with_the_nearest(tmp_path):
    message = refusal(chat_files(tmp_path, [{"prompt": "a", "completions": "b"}]).read)
    assert message == (
        f"{tmp_path / 'train.jsonl'}: no column 'completion'; did you mean 'completions'? its columns are prompt, "
        "completions"
    )


@pytest.mark.parametrize("given", [{}, {"train_file": "a.jsonl", "path": "owner/set"}])
def test_exactly_one_source_is_named(given):
    with pytest.raises(ConfigError, match="^data: ChatFiles needs train_file .* or path .*, one of the two$"):
        ChatFiles(**given)


def test_a_masked_language_model_does_not_learn_to_answer():
    with pytest.raises(ConfigError) as caught:
        ChatFiles(train_file="a.jsonl", objective="masked")
    assert str(caught.value) == "data: MaskedLM does not learn to answer; use CausalLM, or other data"


def test_a_hub_set_is_read_by_its_splits(monkeypatch):
    hub = {"train": datasets.Dataset.from_list(CHAT), "test": datasets.Dataset.from_list(CHAT[:1])}
    monkeypatch.setattr("peftlit.data.files_or_hub.read_hub", lambda *given: hub)
    data = ChatFiles(path="owner/chats", validation_share=0.5)
    assert {split: len(rows) for split, rows in data.read().items()} == {"train": 1, "validation": 1, "test": 1}
    assert data.sources["test"] == "owner/chats test"


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_prompt_longer_than_the_window_is_refused_with_its_row(tmp_path, decoder, num_proc):
    rows = [*TEXTS, {"prompt": "film " * 9, "completion": " good"}]
    data = chat_files(tmp_path, rows, tokenizer=decoder, max_length=8, num_proc=num_proc)
    message = refusal(data.prepare_data)
    assert message == (
        f"{tmp_path / 'train.jsonl'}, row 3: the prompt alone is longer than the window of 8 tokens; raise "
        "data.max_length, or shorten it"
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
    with pytest.raises(DataError, match="row 1: the prompt alone"):
        chat_files(tmp_path, rows, tokenizer=decoder, max_length=7).prepare_data()


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
    assert "train: 1 completions begin within a token of the whole text" in caplog.text
    assert "test: 2 completions begin within a token of the whole text" in caplog.text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"),
        ("{% for", "data.chat_template: not valid in line 1: "),
    ],
)
def test_a_template_that_is_missing_or_not_valid_is_refused(tmp_path, decoder, template, said):
    data = chat_files(tmp_path, CHAT, tokenizer=decoder, chat_template=template)
    with pytest.raises(ConfigError) as caught:
        data.prepare_data()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_template_goes_to_the_tokenizer_that_is_saved(tmp_path, decoder):
    data = chat_files(tmp_path, CHAT, tokenizer=decoder, chat_template=TEMPLATE)
    data.prepare_data()
    assert data.get_tokenizer().chat_template == TEMPLATE


def other_end(tokenizer: str, folder: Path) -> str:
    """The same tokenizer, of whose special tokens another one ends a text."""
    shutil.copytree(tokenizer, folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "eos_token": "[UNK]"}))
    return str(folder)


@pytest.mark.parametrize("changed", ["template", "end", "completion_only", "max_length"])
def test_the_cache_is_not_used_for_anything_else(tmp_path, decoder, changed):
    plain = {"tokenizer": decoder, "chat_template": TEMPLATE}
    before = encoded(chat_files(tmp_path, CHAT, **plain))
    if changed == "end":
        texts = encoded(chat_files(tmp_path, TEXTS, tokenizer=decoder))
        after = encoded(chat_files(tmp_path, TEXTS, tokenizer=other_end(decoder, tmp_path / "other")))
        assert {row["input_ids"][-1] for row in texts} == {END}
        assert {row["input_ids"][-1] for row in after} == {0}
        return
    settings = {
        "template": {"chat_template": "the film " + TEMPLATE},
        "completion_only": {"completion_only": False},
        "max_length": {"max_length": 12},
    }[changed]
    assert encoded(chat_files(tmp_path, CHAT, **{**plain, **settings})) != before


def test_packed_rows_keep_every_label_and_their_own_positions(tmp_path, decoder):
    rows = [{"prompt": f"the film {i}", "completion": " was" * (i % 7 + 1)} for i in range(40)]
    plain = encoded(chat_files(tmp_path, rows, tokenizer=decoder))
    data = chat_files(tmp_path, rows, tokenizer=decoder, packing=True)
    packed = encoded(data)
    assert len(packed) < len(plain) / 2

    def learned(found):
        return sorted(label for row in found for label in row["labels"] if label != IGNORE_INDEX)

    assert learned(packed) == learned(plain)
    assert all(row["length"] <= 32 for row in packed)
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "position_ids", "row"}


def test_probes_are_the_beginnings_of_what_is_said(tmp_path):
    assert chat_files(tmp_path, [{"prompt": "x" * 500, "completion": "b"}, TEXTS[0]]).probe() == ["x" * 200, "the film"]
    assert chat_files(tmp_path, SPLIT).probe() == ["is it good ?"]
    assert chat_files(tmp_path, [{"prompt": "", "completion": "b"}]).probe() == ["Hello."]
