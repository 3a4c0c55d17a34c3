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
from tests.data.helpers import refusal


def _rows(name: str, count: int):
    for i in range(count):
        yield {"text": f"{name} {i + 1}", "label": i % 2}


def _stream(*counts: int, **settings) -> RowStream:
    sources = [Source(f"file {i}", partial(_rows, f"file {i}", count)) for i, count in enumerate(counts)]
    return RowStream(sources, **{"seed": 1, "shuffle_buffer": 7, **settings})


def _names(rows) -> list[tuple[str, int]]:
    return [(row.source, row.number) for row in rows]


def _all(*counts: int) -> list[tuple[str, int]]:
    return [(f"file {i}", n) for i, count in enumerate(counts) for n in range(1, count + 1)]


@pytest.mark.parametrize("counts", [(40,), (30, 11), (5, 5, 5, 5), (9, 1, 20)], ids=str)
def test_the_parts_of_an_epoch_hold_each_row_once_with_its_source_and_its_number_there(counts):
    for parts in (1, 2, 4, 3):
        dealt = [list(_stream(*counts).epoch(3, part, parts)) for part in range(parts)]
        assert all(dealt)
        assert sorted(_names(sum(dealt, []))) == _all(*counts)
        for row in sum(dealt, []):
            assert row.values["text"] == f"{row.source} {row.number}"


def test_whole_sources_are_dealt_where_they_can_be():
    for part in range(2):
        assert len({source for source, _ in _names(_stream(5, 5, 5, 5).epoch(0, part, 2))}) == 2


def test_the_order_is_a_function_of_seed_and_epoch():
    state = random.getstate()
    first = _names(_stream(50, 50).epoch(0))
    assert _names(_stream(50, 50).epoch(0)) == first
    assert _names(_stream(50, 50).epoch(1)) != first
    assert _names(_stream(50, 50, seed=2).epoch(0)) != first
    assert random.getstate() == state


def test_a_buffer_of_one_keeps_the_order_of_a_file_and_a_large_one_shuffles_all_of_it():
    assert _names(_stream(30, shuffle_buffer=1).epoch(0)) == _all(30)
    late = Counter(_names(_stream(30, shuffle_buffer=100).epoch(epoch))[0][1] > 15 for epoch in range(100))
    assert 30 < late[True] < 70, "the first row may come from anywhere"


def test_after_the_last_row_comes_the_next_epoch_also_where_a_loader_is_asked_again():
    stream = _stream(10)
    epochs = [_names(stream.epoch(epoch)) for epoch in range(3)]
    assert _names(islice(stream, 30)) == sum(epochs, [])
    loader = StreamLoader(stream, batch_size=10, collate_fn=_names)
    assert [next(iter(loader)) for _ in range(3)] == epochs


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


@pytest.mark.parametrize("counts", [(12, 12, 12, 12), (48,)], ids=str)
def test_workers_and_ranks_share_the_rows(counts):
    seen = []
    for rank in range(2):
        stream = _stream(*counts, rank=rank, world_size=2)
        seen += sum(islice(StreamLoader(stream, batch_size=1, collate_fn=_names, num_workers=2), 24), [])
    assert sorted(seen) == _all(*counts)


@pytest.mark.parametrize(
    ("labels", "values", "expected"),
    [
        (ClassLabels(["neg", "pos"], "y"), ["pos", "neg"], [1, 0]),
        (LabelSets(["a", "b"], "y", ";"), ["b;a", ""], [[1.0, 1.0], [0.0, 0.0]]),
        (Values("y"), ["2.5", 1], [2.5, 1.0]),
    ],
    ids=["classes", "label sets", "values"],
)
def test_rows_become_the_same_batch_as_elsewhere_also_in_another_process(tmp_path, labels, values, expected):
    tokenizer = tiny.write_tokenizer(tmp_path)
    here = StreamCollator(TextReader({"text": "a", "text_pair": "b"}, labels, Cleaner([])), tokenizer, 6)
    texts = [("good film", "bad plot"), ("sad", "it is")]
    rows = [RawRow("f", 9 - i, {"a": a, "b": b, "y": values[i]}) for i, (a, b) in enumerate(texts)]
    pairs = tokenizer(*map(list, zip(*texts, strict=True)), truncation=True, max_length=6, padding=True)
    for collate in (here, pickle.loads(pickle.dumps(here))):
        batch = {name: tensor.tolist() for name, tensor in collate(rows).items()}
        assert batch == {**pairs, "labels": expected, "row": [9, 8]}


def test_an_error_keeps_what_it_says():
    assert str(StreamError("a.csv, row 3: b: c")) == "a.csv, row 3: b: c"
