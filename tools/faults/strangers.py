"""Folders from strangers: the contract's, which are answered with or refused by a process under an audit hook."""

from __future__ import annotations

import re
import subprocess
import sys

from tools.faults.stage import Stage, Tried

_CONTRACT = "tests/contracts/test_p24_trust.py"


def folders(stage: Stage, kind: str) -> Tried:
    """Let every spoiled export, run and checkpoint be read.

    Args:
        stage: The stage.
        kind: Not used; the contract makes folders of its own.
    """
    tried = Tried("an export, run or checkpoint that others made: pickles, paths, `..`, links, 10 GB headers, code")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "a_strangers_folder", _CONTRACT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", done.stdout)
    tried.times = int(passed.group(1)) if passed else 0
    tried.wrong = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if done.returncode and not tried.wrong:
        tried.wrong.append((done.stdout + done.stderr)[-400:])
    tried.came = f"the answers that its author gets, or one line; nothing unpickled, nothing imported (`{_CONTRACT}`)"
    return tried
