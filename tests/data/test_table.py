from __future__ import annotations

import datasets
import pytest

from peftlit.data.table import column_values, make_rows


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_rows_are_what_the_columns_say_however_many_there_are(count):
    rows = make_rows(
        {"row": range(count), "text": (f"text {i}" for i in range(count)), "sets": [[i] for i in range(count)]}
    )
    assert len(rows) == count
    assert rows.column_names == ["row", "text", "sets"]
    assert list(rows) == [{"row": i, "text": f"text {i}", "sets": [i]} for i in range(count)]
    assert list(column_values(rows, "text", "here")) == [f"text {i}" for i in range(count)]
    assert list(rows.select(range(count - 1, -1, -1))["row"]) == list(range(count - 1, -1, -1))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        make_rows({"row": range(3), "text": ["a", "b"]})


def test_rows_are_made_and_read_a_thousand_at_a_time():
    taken: list[int] = []
    rows = make_rows({"row": (taken.append(i) or i for i in range(2500))})
    assert [len(batch) for batch in rows.data.to_batches()] == [1000, 1000, 500]
    values = column_values(rows, "row", "here")
    assert next(values) == 0
    assert taken == list(range(2500))


def test_rows_are_named_without_looking_at_them(monkeypatch):
    def looked(*_: object) -> str:
        raise AssertionError("the rows were pickled for a name")

    monkeypatch.setattr(datasets.arrow_dataset, "generate_fingerprint", looked)
    first, second = make_rows({"row": [1]}), make_rows({"row": [1]})
    assert first._fingerprint != second._fingerprint
