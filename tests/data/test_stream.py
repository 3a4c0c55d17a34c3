from __future__ import annotations

import pickle
import random
from collections import Counter
from functools import partial
from itertools import islice

import pytest

from peftlit.data.cleaning import Cleaner
from peftlit.data.labels import ClassLabels, LabelSets, Values
from peftlit.data.rows import TextReader
from peftlit.data.stream import RawRow, RowStream, Source, StreamCollator, StreamError, StreamLoader
from tests import tiny
from tests.data.helpers import first_batch, refusal


def _rows(name: str, count: int):
    for i in range(count):
        yield {"text": f"{name} {i + 1}", "label": i % 2}


def _sources(*counts: int) -> list[Source]:
    return [Source(f"file {i}", partial(_rows, f"file {i}", count)) for i, count in enumerate(counts)]


def _stream(*counts: int, **settings) -> RowStream:
    return RowStream(_sources(*counts), **{"seed": 1, "shuffle_buffer": 7, **settings})


def _names(rows) -> list[tuple[str, int]]:
    return [(row.source, row.number) for row in rows]


def _all(*counts: int) -> list[tuple[str, int]]:
    return [(f"file {i}", n) for i, count in enumerate(counts) for n in range(1, count + 1)]


def test_a_row_knows_its_source_and_its_number_there():
    for row in _stream(20, 5, 1).epoch(0):
        assert row.values["text"] == f"{row.source} {row.number}"


@pytest.mark.parametrize("counts", [(40,), (30, 11), (5, 5, 5, 5), (9, 1, 20)], ids=str)
@pytest.mark.parametrize("parts", [1, 2, 4, 3])
def test_the_parts_of_an_epoch_hold_each_row_once(counts, parts):
    stream = _stream(*counts)
    dealt = [_names(stream.epoch(3, part, parts)) for part in range(parts)]
    assert sorted(sum(dealt, [])) == _all(*counts)
    assert all(dealt)


def test_whole_sources_are_dealt_where_they_can_be():
    stream = _stream(5, 5, 5, 5)
    for part in range(2):
        assert len({source for source, _ in _names(stream.epoch(0, part, 2))}) == 2


def test_the_order_is_a_function_of_seed_and_epoch():
    first = _names(_stream(50, 50).epoch(0))
    assert _names(_stream(50, 50).epoch(0)) == first
    assert _names(_stream(50, 50).epoch(1)) != first
    assert _names(_stream(50, 50, seed=2).epoch(0)) != first
    state = random.getstate()
    _names(_stream(50, 50).epoch(0))
    assert random.getstate() == state


def test_a_buffer_of_one_keeps_the_order_of_a_file_and_a_large_one_shuffles_all_of_it():
    assert _names(_stream(30, shuffle_buffer=1).epoch(0)) == _all(30)
    whole = _names(_stream(30, shuffle_buffer=100).epoch(0))
    assert sorted(whole) == _all(30)
    late = Counter(_names(_stream(30, shuffle_buffer=100).epoch(epoch))[0][1] > 15 for epoch in range(100))
    assert 30 < late[True] < 70, "the first row may come from anywhere"


def test_after_the_last_row_comes_the_next_epoch():
    stream = _stream(10)
    rows = _names(islice(stream, 30))
    for epoch in range(3):
        assert rows[10 * epoch : 10 * epoch + 10] == _names(stream.epoch(epoch))


@pytest.mark.parametrize("buffer", [1, 50, 1000])
def test_no_more_rows_are_pulled_than_the_buffer_holds_and_the_batches_took(buffer):
    pulled = 0

    def endless():
        nonlocal pulled
        while True:
            pulled += 1
            yield {"text": "x", "label": 0}

    stream = RowStream([Source("endless", endless)], seed=0, shuffle_buffer=buffer)
    loader = iter(StreamLoader(stream, batch_size=8, collate_fn=list))
    for batches in range(1, 20):
        assert len(next(loader)) == 8
        assert pulled <= buffer + 8 * batches


def test_a_part_without_rows_is_an_error_and_no_endless_loop():
    stream = _stream(1, rank=1, world_size=2)
    assert refusal(lambda: next(iter(stream))) == "file 0: too few rows for 2 processes; use fewer num_workers"


def _first_epoch(stream: RowStream, workers: int, rows: int) -> list[tuple[str, int]]:
    loader = StreamLoader(stream, batch_size=1, collate_fn=list, num_workers=workers)
    return _names(sum(islice(loader, rows), []))


@pytest.mark.parametrize("counts", [(12, 12, 12, 12), (48,)], ids=str)
def test_workers_and_ranks_share_the_rows(counts):
    seen = []
    for rank in range(2):
        seen += _first_epoch(_stream(*counts, rank=rank, world_size=2), workers=2, rows=24)
    assert sorted(seen) == _all(*counts)


def test_a_loader_asked_again_goes_on_to_another_order():
    loader = StreamLoader(_stream(20), batch_size=20, collate_fn=_names)
    stream = loader.dataset
    assert [next(iter(loader)) for _ in range(3)] == [_names(stream.epoch(epoch)) for epoch in range(3)]


# Rows --------------------------------------------------------------------------------------------------------------

TEXT = {"text": "body"}


def _reader(labels=None, *, columns=TEXT, steps=(), strict=False) -> TextReader:
    return TextReader(columns, labels or ClassLabels(["neg", "pos"], "label"), Cleaner(steps), strict=strict)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bdy": "x", "label": 0}, "no column 'body'; did you mean 'bdy'? its columns are bdy, label"),
        ({"body": "x"}, "no column 'label'; its columns are body"),
        ({"body": None, "label": 0}, "body is None, needs a text"),
        ({"body": "x", "label": None}, "no label in column 'label'; every row needs one"),
        ({"body": "x", "label": "po"}, "unknown label 'po'; did you mean 'pos'? known are neg, pos"),
    ],
)
def test_a_wrong_row_is_refused_with_its_source_and_number(values, says):
    message = refusal(lambda: _reader().read_row(values, "rows.jsonl", 12345))
    assert message.startswith("rows.jsonl, row 12345: ")
    assert message.endswith(says)


def test_empty_texts_are_kept_unless_strict():
    row = ({"body": "<br>", "label": "neg"}, "rows.jsonl", 3)
    assert _reader(steps=["tags", "whitespace"]).read_row(*row) == {"row": 3, "text": "", "label": 0}
    message = refusal(lambda: _reader(steps=["tags", "whitespace"], strict=True).read_row(*row))
    assert message == "rows.jsonl, row 3: empty text (strict)"


@pytest.mark.parametrize("sent", [False, True], ids=["here", "in another process"])
@pytest.mark.parametrize(
    ("labels", "values", "expected"),
    [
        (ClassLabels(["neg", "pos"], "y"), ["pos", "neg"], [1, 0]),
        (LabelSets(["a", "b"], "y", ";"), ["b;a", ""], [[1.0, 1.0], [0.0, 0.0]]),
        (Values("y"), ["2.5", 1], [2.5, 1.0]),
    ],
    ids=["classes", "label sets", "values"],
)
def test_rows_become_the_same_batch_as_elsewhere(tmp_path, sent, labels, values, expected):
    tokenizer = tiny.write_tokenizer(tmp_path)
    collate = StreamCollator(_reader(labels, columns={"text": "a", "text_pair": "b"}), tokenizer, 6)
    if sent:
        collate = pickle.loads(pickle.dumps(collate))
    texts = [("good film", "bad plot"), ("sad", "it is")]
    rows = [RawRow("f", 9 - i, {"a": a, "b": b, "y": values[i]}) for i, (a, b) in enumerate(texts)]
    batch = collate(rows)
    pairs = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=6, padding=True)
    assert batch["input_ids"].tolist() == pairs["input_ids"]
    assert batch["attention_mask"].tolist() == pairs["attention_mask"]
    assert batch["labels"].tolist() == expected
    assert batch["row"].tolist() == [9, 8]


def test_an_error_from_a_worker_is_one_line(tmp_path):
    stream = RowStream([Source("rows.jsonl", partial(_rows, "x", 8))], seed=0, shuffle_buffer=1)
    collate = StreamCollator(_reader(ClassLabels(["a", "b"], "lable")), tiny.write_tokenizer(tmp_path), 6)
    loader = StreamLoader(stream, batch_size=4, collate_fn=collate, num_workers=1)
    message = refusal(lambda: first_batch(loader))
    assert message == "rows.jsonl, row 1: no column 'body'; its columns are text, label"


def test_an_error_keeps_what_it_says():
    assert str(StreamError("a.csv, row 3: b: c")) == "a.csv, row 3: b: c"
