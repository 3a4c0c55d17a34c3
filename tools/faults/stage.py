"""Where faults are tried: the short runs, what they give when nothing interrupts them, and how one goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contracts import toy_runs as toy
from tests.forked import Outcome, peftlit_in

RESUME = "--ckpt_path=last"


@dataclass
class Tried:
    """One row of the table.

    Attributes:
        fault: What was done.
        times: How often.
        came: What came of it.
        wrong: What should not have.
    """

    fault: str
    times: int = 0
    came: str = ""
    wrong: list[str] = field(default_factory=list)


class Stage:
    """A folder for runs, and the results of those that nothing has interrupted.

    Args:
        scratch: The folder.
        kinds: Names of the kinds of runs that are needed.
    """

    def __init__(self, scratch: Path, kinds: list[str]) -> None:
        self.scratch = scratch
        self.base = scratch / "base"
        toy.write_base(self.base)
        self.wanted: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        for kind in kinds:
            folder = self.fresh(f"whole {kind}", kind)
            outcome = peftlit_in(folder, *toy.FIT)
            if outcome.code:
                raise RuntimeError(outcome.said)
            self.wanted[kind], self.seconds[kind] = toy.result(folder), outcome.seconds

    def fresh(self, name: str, kind: str) -> Path:
        """Return a folder with nothing but a configuration.

        Args:
            name: Whose.
            kind: Name of the kind of run.
        """
        folder = self.scratch / "".join(letter if letter.isalnum() else "_" for letter in name)
        toy.write_run(folder, self.base, toy.KINDS[kind])
        return folder

    def attempt(
        self,
        folder: Path,
        *more: str,
        prepare: Callable[[], None] | None = None,
        watch: Callable[[int, float], int | None] | None = None,
    ) -> Outcome:
        """Go on from the last checkpoint; begin anew where there is none.

        Args:
            folder: The folder.
            more: Further arguments.
            prepare: Called in the process first.
            watch: Called while it runs.
        """
        if any(folder.glob("run/checkpoints/[!.]*.ckpt/checkpoint.json")):
            more = (RESUME, *more)
        else:
            shutil.rmtree(folder / "run", ignore_errors=True)
        return peftlit_in(folder, *toy.FIT, *more, prepare=prepare, watch=watch)

    def finish(self, folder: Path, kind: str, tried: Tried) -> None:
        """Go on to the end, and compare it with that of the run that was not interrupted.

        Args:
            folder: The folder.
            kind: Name of the kind of run.
            tried: Takes what is wrong.
        """
        self.judge(self.attempt(folder), folder, kind, tried)

    def judge(self, outcome: Outcome, folder: Path, kind: str, tried: Tried) -> None:
        """Compare the result of a run that has ended with that of one that was not interrupted.

        Args:
            outcome: How it ended.
            folder: The folder.
            kind: Name of the kind of run.
            tried: Takes what is wrong.
        """
        if outcome.code:
            tried.wrong.append(f"does not go on ({outcome.code}): {outcome.last_line}")
        elif odd := toy.differences(self.wanted[kind], toy.result(folder)):
            tried.wrong.append(f"another result: {', '.join(odd)}")

    @staticmethod
    def expect_one_line(outcome: Outcome, says: str, tried: Tried) -> None:
        """Demand that a run was refused in one line.

        Args:
            outcome: How it ended.
            says: What the line has to say.
            tried: Counts it, and takes what is wrong.
        """
        tried.times += 1
        lines = [line for line in outcome.said.splitlines() if line.startswith("peftlit: error: ")]
        if outcome.code not in (1, 2) or outcome.has_traceback or len(lines) != 1 or lines[0] != outcome.last_line:
            tried.wrong.append(f"no one line, exit code {outcome.code}: {outcome.said[-400:]}")
        elif says not in lines[0]:
            tried.wrong.append(f"does not say {says!r}: {lines[0]}")
        else:
            tried.came = f"exit code {outcome.code}, `{_short(lines[0])}`"


def _short(line: str) -> str:
    words = [word.rsplit("/", 1)[-1] if word.count("/") > 2 else word for word in line.split()]
    return " ".join(words)[:200]


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder.

    Args:
        folder: The folder.
    """
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
