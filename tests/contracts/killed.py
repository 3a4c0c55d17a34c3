"""A run that is killed in one position after another, against one that nothing has interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import device
from tests.contracts import interruptions
from tests.contracts.toy_runs import BEST, EIGHT_BIT, EVERY_STEP, FIT, NF4, differences, result, write_run
from tests.forked import peftlit_in

BATCHES = 12
"""Training batches of an epoch on one rank: 96 rows, 8 at a time, windows of two."""

STORED: dict[str, dict[str, Any]] = {
    "float32": {"trainer": {"precision": "32-true"}},
    "bfloat16": {"trainer": {"precision": "bf16-mixed"}},
    "NF4, 8-bit AdamW": {
        "trainer": {"precision": "bf16-mixed"}, "backbone": NF4, "optimizer": EIGHT_BIT, "workers": 2,
    },
    "float32, masked language model": {"trainer": {"precision": "32-true"}, "task": "MaskedLM", "workers": 1},
}  # fmt: skip
"""How numbers are stored, and with what optimizer; the last one loads batches in two processes."""


def positions(ranks: int) -> dict[str, str]:
    """Name the instants at which runs are killed, in their order."""
    batches = BATCHES // ranks
    return {
        "inside a window": "train 0/2",
        "on an epoch's last batch": f"train 0/{batches - 1}",
        "in the validation": "validation 0/0",
        "on an epoch's first batch": "train 1/0",
        "in the second epoch, inside a window": f"train 1/{batches - 2}",
        "on the last batch of all": f"train 1/{batches - 1}",
    }


def write(folder: Path, base: Path, kind: dict[str, Any], ranks: int = 1) -> None:
    """Write a run that can be killed and writes down its batches; it saves at every step and keeps the best."""
    trainer = {"callbacks": [BEST, EVERY_STEP], "devices": ranks, **kind["trainer"]}
    callbacks = [*trainer["callbacks"], *({"class_path": f"interruptions.{name}"} for name in ("KillAt", "Trace"))]
    write_run(folder, base, {**kind, "trainer": {**trainer, "callbacks": callbacks}})
    shutil.copy(interruptions.__file__, folder)


def run(folder: Path, *more: str, kill_at: str = "", ranks: int = 1, prepare: Callable[[], None] | None = None) -> int:
    """Begin a run, or go on with it; return its exit code, negative for a signal."""
    if device.current == "cuda":  # which no fork may use after its parent
        command, environment = [sys.executable, "-m", "peftlit", *FIT, *more], {**os.environ, "KILL_AT": kill_at}
        with (folder / "said.txt").open("w") as said:
            return subprocess.run(command, cwd=folder, stdout=said, stderr=said, start_new_session=True,
                                  env=environment, check=False).returncode  # fmt: skip

    def in_child() -> None:
        os.environ["KILL_AT"] = kill_at
        if prepare is not None:
            prepare()

    return peftlit_in(folder, *FIT, *more, prepare=in_child, ranks=ranks, others_may_take=20.0 * (ranks > 1)).code


def traces(folder: Path) -> dict[str, str]:
    """Return what every batch was and gave, the last time it was seen, by rank, epoch and number."""
    found = {}
    for file in folder.glob("trace_*.txt"):
        for line in file.read_text().splitlines():
            place, rest = line.split(" ", 1)
            found[f"{file.stem} {place}"] = rest
    return found


def killed_in_each_position(
    whole: Path, folder: Path, base: Path, kind: dict[str, Any], ranks: int, prepare: Callable[[], None] | None = None
) -> dict[str, list[str]]:
    """Kill a run in every position, go on each time, and say for each position what came out otherwise after it.

    It ends with the first position after which something did.
    """
    write(folder, base, kind, ranks)
    wanted, odd, begun = traces(whole), {}, ""
    for position, instant in [*positions(ranks).items(), ("", "")]:
        for file in folder.glob("trace_*.txt"):
            file.unlink()
        more = ("--ckpt_path=last",) if begun else ()
        code = run(folder, *more, kill_at=instant, ranks=ranks, prepare=prepare if begun else None)
        if begun:
            seen = traces(folder)
            odd[begun] = [place for place in seen if seen[place] != wanted[place]]
        if code != (-9 if instant else 0):
            odd[begun or position] = [f"exit code {code}: {(folder / 'said.txt').read_text()[-600:]}"]
        if odd.get(begun or position):
            return odd
        begun = position
    last = list(odd)[-1]
    odd[last] += differences(result(whole), result(folder))
    return odd
