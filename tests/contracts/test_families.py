"""The table that the contracts run over, and the page that says what came of it."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest

from peftlit.errors import AdapterError, TrainabilityError
from tests.contracts import families
from tests.contracts.outcomes import PROPERTY, Outcomes
from tests.modules.cases import ADAPTERS, CASES, FAMILIES, FAST, RED, STORAGES

KEPT = {key: ["✓", "✓"] for key in families.KEYS}


def rows(text: str) -> list[list[str]]:
    """The cells of the page's table, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def test_every_family_trains_with_every_adapter_and_each_meets_every_storage() -> None:
    adapters = [*ADAPTERS, "full"]
    assert {(c.family, c.adapter) for c in CASES if c.refused is None} == set(product(FAMILIES, adapters))
    assert len(CASES) == len(set(CASES))
    assert {(c.family, c.quantization) for c in CASES} == set(product(FAMILIES, STORAGES))
    assert {(c.adapter, c.quantization) for c in CASES} == set(product(adapters, STORAGES))
    assert set(FAST) < set(CASES)
    assert {c.family for c in FAST} == set(FAMILIES)
    assert {(c.adapter, c.quantization) for c in FAST} == set(product(adapters, STORAGES))


def test_the_committed_page_lists_the_rows_of_the_table_and_none_is_broken() -> None:
    listed = rows(families.PAGE.read_text(encoding="utf-8"))
    assert [tuple(row[:3]) for row in listed] == [families.name_of(case) for case in CASES]
    for case, row in zip(CASES, listed, strict=True):
        for cell in row[3:]:
            assert cell == f"refused: {case.refused}" if case.refused else cell.startswith("✓"), (case, cell)


def test_a_broken_row_and_one_that_was_not_judged_are_shown(tmp_path) -> None:
    first, second, third, *_ = map(str, CASES)
    broken = {("P1", first): ["✗"], ("P2", second): ["✓", "✗"], ("P3", third): []}
    families.write(tmp_path / "page.md", {**KEPT, **broken})
    shown = rows((tmp_path / "page.md").read_text(encoding="utf-8"))
    assert [row[3:] for row in shown[:4]] == [
        ["✗", "✓", "✓", "✓"], ["✓", "✓; ✗", "✓", "✓"], ["✓", "✓", "✗", "✓"], ["✓", "✓", "✓", "✓"],
    ]  # fmt: skip


def test_other_versions_alone_change_nothing_and_another_outcome_does(tmp_path) -> None:
    file = tmp_path / "page.md"
    old = families.page(KEPT, dict.fromkeys(families.LIBRARIES, "0.0"))
    file.write_text(old, encoding="utf-8")
    families.write(file, KEPT)
    assert file.read_text(encoding="utf-8") == old
    families.write(file, {**KEPT, ("P1", str(CASES[0])): ["✗"]})
    assert file.read_text(encoding="utf-8") != old


BROKEN = {
    "unexpected": (AdapterError("the reason"), None),
    "another reason": (AdapterError("another reason"), "the reason"),
    "two lines": (AdapterError("the reason\nand more"), "the reason"),
    "while training": (TrainabilityError("the reason"), "the reason"),
    "not ours": (ValueError("the reason"), "the reason"),
    "trains": (None, "the reason"),
}


@pytest.mark.parametrize(("error", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_neither_passes_nor_is_refused_as_it_should_is_broken(error, reason) -> None:
    cell: list[str] = []
    with pytest.raises((*RED, AdapterError, ValueError)), families.judged(cell, reason):  # noqa: PT012
        if error is not None:
            raise error
    assert cell == ["✗"]


@pytest.mark.parametrize("ran", [len(families.KEYS), len(families.KEYS) - 1, 3 * len(CASES), len(FAST)])
def test_the_page_is_made_of_reports_and_only_of_a_whole_table(tmp_path, monkeypatch, ran) -> None:
    monkeypatch.setattr(families, "PAGE", tmp_path / "page.md")
    outcomes = Outcomes()
    for promise, row in families.KEYS[:ran]:
        cell = ["✗"] if (promise, row) == families.KEYS[0] else ["✓"]
        carried = [("another", 1), (PROPERTY, [promise, row, cell, len(families.KEYS)])]
        for when in ("setup", "call", "teardown"):
            outcomes.pytest_runtest_logreport(SimpleNamespace(when=when, user_properties=carried))
    outcomes.pytest_sessionfinish()
    assert families.PAGE.exists() == (ran == len(families.KEYS))
    if families.PAGE.exists():
        assert [row[3:] for row in rows(families.PAGE.read_text(encoding="utf-8"))[:2]] == [["✗", *"✓✓✓"], [*"✓✓✓✓"]]


def test_what_passes_or_is_refused_as_it_should_is_noted() -> None:
    cell: list[str] = []
    with families.judged(cell, None):
        pass
    with families.judged(cell, "the reason"):
        raise AdapterError("adapter: the reason; do that")
    assert cell == ["✓", "refused: the reason"]
