"""Small changes of a program: a comparison flipped, a condition negated, a constant changed, a statement dropped."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count
from pathlib import Path

from tools import size

SRC = "src/peftlit"
_HABITS = (b"encoding=", b"strict=True", b"check=False")  # said for linters; so on Linux without them too
_SWAPS = {
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file; ``before`` and ``after`` are the lines it touches, ``source`` is the changed file."""

    file: str
    function: str
    kind: str
    before: str
    after: str
    source: bytes = field(repr=False)

    @property
    def row(self) -> str:
        """What names it in the table."""
        cells = [f"`{text}`".replace("|", r"\|").replace("](", "] (") for text in (self.before, self.after)]
        return " | ".join([self.file, self.function or "module", *cells])


def mutants_of(file: str, source: bytes) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]

    def span(node: ast.AST) -> tuple[int, int]:
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    for node, function in _nodes(ast.parse(source)):
        for kind, start, end, text in _edits(node, source, span):
            first, last = source.rfind(b"\n", 0, start) + 1, source.index(b"\n", end)
            lines = [source[first:start] + part + source[end:last] for part in (source[start:end], text)]
            before, after = (" ".join(line.decode().replace("`", "'").split()) for line in lines)
            if len(before) > 100:
                cut = max(len(os.path.commonprefix([before, after])) - 40, 0)
                before, after = ("…" * bool(cut) + line[cut : cut + 100] for line in (before, after))
            yield Mutant(file, function, kind, before, after, source[:start] + text + source[end:])


def _nodes(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Walk over what runs: no annotations, decorators, types, exports, log lines or formatted messages."""
    text = ast.unparse(node) if isinstance(node, ast.Assign | ast.Expr) else ""
    is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    if is_typing or isinstance(node, ast.JoinedStr) or re.match(r"(log|warnings)[.(]|__all__|\w+ = Literal\[", text):
        return
    yield node, function
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        function = f"{function}.{node.name}".strip(".")
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
                yield from _nodes(child, function)


def _edits(node: ast.AST, source: bytes, span) -> Iterator[tuple[str, int, int, bytes]]:
    """Yield each change of a node: its kind, the bytes that go, and what takes their place."""
    values, operators, tests = [], [], []
    if isinstance(node, ast.Compare):
        values, operators = [node.left, *node.comparators], node.ops
    elif isinstance(node, ast.BoolOp):
        values, operators = node.values, [node.op] * len(node.values)
    elif isinstance(node, ast.If | ast.IfExp | ast.comprehension):
        tests = node.ifs if isinstance(node, ast.comprehension) else [node.test]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "constant", *span(node), repr(not node.value if isinstance(node.value, bool) else node.value + 1).encode()
    elif isinstance(node, ast.AugAssign | ast.Raise | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        or isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple)
    ):  # fmt: skip
        yield "statement", *span(node), b"pass"
    for left, right, operator in zip(values, values[1:], operators, strict=False):
        start, end = span(left)[1], span(right)[0]
        old, new = _SWAPS[type(operator)]
        head, _, tail = source[start:end].rpartition(old.encode())  # a comment may stand before it
        yield "and/or" if old in ("and", "or") else "comparison", start, end, head + new.encode() + tail
    for test in (test for test in tests if not isinstance(test, ast.Compare)):
        text = source[slice(*span(test))]
        negated = text[4:] if isinstance(test, ast.UnaryOp) else b"not (%b)" % text
        yield "condition", *span(test), negated
    for keyword in node.keywords if isinstance(node, ast.Call) else []:
        start, end = span(keyword)
        if keyword.arg and not source.startswith(_HABITS, start):
            comma = re.compile(rb"\s*,\s*").match(source, end)
            yield "keyword", start if comma else len(source[:start].rstrip(b", \n")), comma.end() if comma else end, b""


def pick(tree: Path, seed: int, number: int) -> list[Mutant]:
    """Pick mutants by lot: from each room in proportion to its lines of code, kinds of change in turn."""
    code: Counter[str] = Counter()
    lots: dict[str, dict[str, Mutant]] = defaultdict(dict)
    for path in sorted((tree / SRC).rglob("*.py")):
        file, source = path.relative_to(tree / SRC).as_posix(), path.read_bytes()
        if path.name not in ("__init__.py", "deprecated.py"):
            room = file.rpartition("/")[0].partition("/")[0]
            code[room] += size.count(source.decode())["code"]
            lots[room] |= {mutant.row: mutant for mutant in mutants_of(file, source)}
    bounds = [round(number * lines / code.total()) for lines in accumulate(code.values(), initial=0)]
    picked: list[Mutant] = []
    for room, first, last in zip(code, bounds, bounds[1:], strict=False):
        # in the order of their hashes, so that what is edited elsewhere does not change what is picked
        drawn = sorted(lots[room].values(), key=lambda mutant: hashlib.sha256(f"{seed} {mutant.row}".encode()).digest())
        turns: dict[str, Iterator[int]] = defaultdict(count)
        order = sorted((next(turns[mutant.kind]), place) for place, mutant in enumerate(drawn))
        picked += [drawn[place] for _, place in order[: last - first]]
    return picked
