"""The commands in tools/ run; what they find is in docs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tools.{name}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_fault_is_tried_and_written_down(tmp_path) -> None:
    done = tool("faults", "--only", "signals.requeued", "--out", str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| SLURM's requeue signal, then the same command" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize("page", ["accumulation", "faults", "resume_table"])
def test_no_row_of_a_page_is_wrong(page) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    assert text.count("\n| ") > 3
    assert "**wrong**" not in text
    assert "✗" not in text
