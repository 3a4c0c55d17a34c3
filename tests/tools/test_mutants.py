"""Mutants are other programs, picked by lot, and tested from the nearest tests to the farthest."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from tools.mutants.__main__ import page, stages
from tools.mutants.changes import SRC, Mutant, mutants_of, pick

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "kind", "afters"),
    [
        ("x = a < b", "comparison", ["x = a <= b"]),
        ("x = a is not None", "comparison", ["x = a is None"]),
        ("x = a not in b", "comparison", ["x = a in b"]),
        ("x = a and b and c", "and/or", ["x = a or b and c", "x = a and b or c"]),
        ("x = a if not b else c", "condition", ["x = a if b else c"]),
        ("x = [a for a in b if a or c]", "condition", ["x = [a for a in b if not (a or c)]"]),
        ("x = a[1:], True", "constant", ["x = a[2:], True", "x = a[1:], False"]),
        ("x = f(a, b=c, d=e)", "keyword", ["x = f(a, d=e)", "x = f(a, b=c)"]),
        ("x = open(a, encoding='utf-8')", "keyword", []),
        ("f(a)", "statement", ["pass"]),
        ("raise ValueError(f'{a:1}')", "statement", ["pass"]),
        ("a.b = c", "statement", ["pass"]),
        ("x = c", "statement", []),
    ],
)
def test_a_line_changes(before: str, kind: str, afters: list[str]) -> None:
    assert [m.after for m in mutants_of("a.py", f"{before}\n".encode()) if m.kind == kind] == afters


def test_only_what_runs_is_changed() -> None:
    source = '''"""Sums 1 < 2."""
if TYPE_CHECKING:
    import a
__all__ = sorted(["b"], reverse=True)
Kind = Literal[1]

class A:
    """Holds."""

    @property
    def b(self, c: Literal[1]) -> Literal[2]:
        log.info("%d", c, extra=1)
        return f"{c + 1}"

    def d(self):
        return (
            1  # and so on
            and c
        )
'''
    found = [(mutant.function, mutant.kind) for mutant in mutants_of("a.py", source.encode())]
    assert found == [("A.d", "and/or"), ("A.d", "constant")]


@pytest.mark.parametrize("file", ["data/split.py", "modules/accumulation.py", "export/write.py"])
def test_every_mutant_is_another_program(file: str) -> None:
    source = (ROOT / SRC / file).read_bytes()
    program = ast.dump(ast.parse(source))
    for mutant in mutants_of(file, source):
        assert ast.dump(ast.parse(mutant.source)) != program, mutant
        compile(mutant.source, file, "exec")


def test_rooms_have_mutants_by_their_code_and_keep_them_when_others_change(tmp_path: Path) -> None:
    for room, lines in {"a": 30, "b": 10}.items():
        (tmp_path / SRC / room).mkdir(parents=True)
        (tmp_path / SRC / room / "c.py").write_text("".join(f"x = {room} < {i}\n" for i in range(lines)))
    before = pick(tmp_path, 0, 8)
    assert [mutant.file for mutant in before] == ["a/c.py"] * 6 + ["b/c.py"] * 2
    assert {mutant.kind for mutant in before[:2]} == {"comparison", "constant"}
    assert pick(tmp_path, 1, 8) != before
    with (tmp_path / SRC / "b/c.py").open("a") as file:
        file.write("x = b > 0\n")
    assert [mutant for mutant in pick(tmp_path, 0, 8) if mutant.file == "a/c.py"] == before[:6]


def test_the_nearest_tests_come_first() -> None:
    mirror, fast, slow = stages(ROOT, Mutant("data/split.py", "Splitter", "", "", "", b""))
    assert mirror == ["tests/data/test_split.py"]
    assert fast[:2] == ["-m", "not slow and not gpu"]
    assert fast[2].startswith("tests/data/")
    assert slow == ["-m", "slow and not gpu", *fast[2:]]
    assert set(fast[2:] + mirror) == {str(test.relative_to(ROOT)) for test in ROOT.glob("tests/**/test_*.py")}


def test_a_page_counts_and_keeps_what_was_noted_by_hand() -> None:
    mutants = [Mutant("a.py", "", "", f"a | {i}", "b", b"") for i in range(3)]
    text = page(mutants, {mutants[0].row: "`tests/test_a.py::test`", mutants[1].row: "survived"}, "COMMAND", "noted")
    assert "each: 1\nwere caught, 1 survived, 1 were not tested" in text
    assert r"| 1 | a.py | module | `a \| 0` | `b` | `tests/test_a.py::test` |" in text
    assert text.endswith("noted")
