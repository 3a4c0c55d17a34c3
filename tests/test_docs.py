"""README, CONTRIBUTING and docs/: links lead somewhere, named files and classes are there, README's example parses."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs/index.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def links(page: Path) -> set[Path]:
    found = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in found}


def quoted(page: Path, pattern: str) -> list[str]:
    return re.findall(f"`({pattern})`", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_named_files_and_named_parts_of_peftlit_are_there(page: Path) -> None:
    assert not [link for link in links(page) if not link.exists()]
    named = quoted(page, r"(?:src|tests|tools|docs|configs)/[\w/.-]*")
    assert not [name for name in named if not (ROOT / name).exists()]
    for name in quoted(page, r"peftlit(?:\.\w+)+"):
        resolve_name(name)


def test_every_page_can_be_reached_from_the_index() -> None:
    reached = links(INDEX) | links(ROOT / "docs/measured.md")
    assert {page for page in PAGES if page.parent == INDEX.parent} - {INDEX} <= reached


def test_every_contract_has_its_place_among_the_promises() -> None:
    text = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py)`", text))
    assert {file.name for file in (ROOT / "tests/contracts").glob("test_*.py")} - {"test_families.py"} == named


def test_the_example_for_a_csv_of_ones_own_parses(peftlit, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "my.yaml").write_text(re.search(r"<!-- own csv -->\n```yaml\n(.*?)```", text, re.DOTALL)[1])
    peftlit.ok("fit", "--config", "my.yaml", "--print_config")
