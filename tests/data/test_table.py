from __future__ import annotations

import datasets
import pytest

from peftlit.data.table import column_values, make_rows, map_rows, write_rows


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_rows_are_what_the_columns_say_however_many_there_are(count):
    columns = {"row": [*range(count)], "text": [f"text {i}" for i in range(count)], "sets": [[i] for i in range(count)]}
    rows = make_rows({name: iter(values) for name, values in columns.items()})
    assert len(rows) == count
    assert rows.cache_files, "held in memory instead of mapped from disk"
    assert rows.column_names == ["row", "text", "sets"]
    assert not count or rows[:] == columns
    assert list(column_values(rows, "text", "here")) == columns["text"]
    assert list(rows.select(range(count - 1, -1, -1))["row"]) == columns["row"][::-1]


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        make_rows({"row": range(3), "text": ["a", "b"]})


def test_rows_are_made_and_read_a_thousand_at_a_time():
    taken: list[int] = []
    rows = make_rows({"row": (taken.append(i) or i for i in range(2500))})
    assert [len(batch) for batch in rows.data.to_batches()] == [1000, 1000, 500]
    assert next(column_values(rows, "row", "here")) == 0
    assert taken == list(range(2500))


def test_rows_are_named_without_looking_at_them(monkeypatch):
    monkeypatch.setattr(datasets.arrow_dataset, "generate_fingerprint", lambda *_: pytest.fail("pickled for a name"))
    first, second = make_rows({"row": [1]}), make_rows({"row": [1]})
    assert first._fingerprint != second._fingerprint


@pytest.mark.parametrize(
    ("parts", "values"),
    [
        pytest.param([[None], ["a"], [None]], [None, "a", None], id="first seen late"),
        pytest.param([[1], [2.5], [3]], [1.0, 2.5, 3.0], id="numbers"),
        pytest.param([[1], ["neg"], [2]], [1, "neg", 2], id="numbers and texts"),
        pytest.param([[1, "7", True, [0.5]], ["8"]], [1, "7", True, [0.5], "8"], id="mixed at once"),
        pytest.param([[1], ["7", [0.5]], [None]], [1, "7", [0.5], None], id="mixed late"),
        pytest.param([[[]], [["a"]]], [[], ["a"]], id="lists"),
        pytest.param([[{"a": 1}], [{"b": 2}]], [{"a": 1, "b": None}, {"a": None, "b": 2}], id="objects"),
        pytest.param([[1, 1 << 70]], [1.0, 2.0**70], id="beyond 64 bits"),
    ],
)
def test_a_column_is_as_wide_as_its_values_need(tmp_path, parts, values):
    write_rows(tmp_path / "rows.arrow", [{"row": list(part), "value": part} for part in parts])
    assert map_rows(tmp_path / "rows.arrow")["value"][:] == values
    assert [file.name for file in tmp_path.iterdir()] == ["rows.arrow"]


def test_a_column_that_a_part_lacks_is_empty_there(tmp_path):
    write_rows(tmp_path / "rows.arrow", [{"a": [1]}, {"a": [2], "b": ["x"]}, {"b": ["y"]}])
    assert map_rows(tmp_path / "rows.arrow")[:] == {"a": [1, 2, None], "b": [None, "x", "y"]}


def test_rows_that_fail_leave_no_file(tmp_path):
    def parts():
        yield {"a": [1]}
        yield {"a": ["x"]}
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_rows(tmp_path / "rows.arrow", parts())
    assert not list(tmp_path.iterdir())
