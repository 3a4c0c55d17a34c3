"""Count what a reader of the sources meets: lines of code, docstrings, comments and tests.

python -m tools.size [FOLDER ...]     (default: src tests tools)
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

_NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def count(source: str) -> dict[str, int]:
    """Count one file's lines; a line with code and a comment is code.

    Args:
        source: The file's text.
    """
    texts = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    lines_of = [range(n.lineno, (n.end_lineno or n.lineno) + 1) for n in texts if isinstance(n.value.value, str)]
    docstrings = {line for lines in lines_of for line in lines}
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        lines = range(token.start[0], token.end[0] + 1)
        if token.type == tokenize.COMMENT:
            comments.update(lines)
        elif token.type not in _NOT_CODE:
            code.update(lines)
    code -= docstrings
    return {
        "files": 1,
        "lines": source.count("\n"),
        "code": len(code),
        "docstrings": len(docstrings),
        "comments": len(comments - code - docstrings),
    }


def main() -> None:
    """Print a row per folder."""
    folders = [Path(name) for name in sys.argv[1:] or ("src", "tests", "tools")]
    names = list(count(""))
    print(f"{'folder':<24}" + "".join(f"{name:>12}" for name in names))
    for folder in folders:
        counts = [count(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.py"))]
        print(f"{folder!s:<24}" + "".join(f"{sum(one[name] for one in counts):>12}" for name in names))


if __name__ == "__main__":
    main()
