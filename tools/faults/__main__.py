"""Try every fault that a run must survive, on real processes, and write down what came of each.

Run as ``python -m tools.faults [--only WORD] [--out docs/faults.md]`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from tools.faults import disk

if TYPE_CHECKING:
    from tools.faults.stage import Tried

_RANDOM_KILLS = 20
"""Of each of the five kinds of runs."""

_PAGE = """# Faults that a run survives

Each fault is caused in real processes that train a tiny model; then the run is resumed with `--ckpt_path last`.
"The same result" means that weights, scores, predictions and log history equal, bit for bit, those of a run that was
never interrupted. Made by `python -m tools.faults --out docs/faults.md` in {minutes} minutes on {cores} cores.
With {versions}.

| fault | times | what happened |
|---|---|---|
"""


def faults() -> list[partial[Tried]]:
    """Return all that is tried; each takes the stage."""
    from tests.contracts.toy_runs import KINDS

    from tools.faults import damage, kills, signals, strangers

    floats, eight_bit, *_, growing = KINDS
    mounted = [partial(disk.full, kind=floats), partial(disk.read_only, kind=floats)] if disk.can_mount() else []
    return [
        *[partial(kills.at_random_instants, kind=kind, times=_RANDOM_KILLS) for kind in KINDS],
        *[partial(kills.at_file_operations, kind=kind) for kind in (floats, growing)],
        *[partial(signals.inside_a_window, kind=floats, number=n) for n in (signal.SIGTERM, signal.SIGINT)],
        partial(signals.inside_a_window, kind=eight_bit, number=signal.SIGTERM),
        partial(signals.requeued, kind=floats),
        *mounted,
        partial(damage.checkpoints, kind=floats),
        partial(damage.data, kind=floats),
        partial(damage.base, kind=floats),
        partial(damage.two_runs, kind=floats),
        partial(damage.worker, kind=eight_bit),
        partial(strangers.folders, kind=floats),
    ]


def main() -> int:
    """Try them, two at a time; return 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only", default="", help="try only the functions whose name, such as kills.at_random_instants, holds it"
    )
    parser.add_argument("--out", type=Path, help="page to write")
    arguments = parser.parse_args()
    disk.enter_namespace()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    started = time.monotonic()
    from tools.faults.stage import Stage

    chosen = [fault for fault in faults() if arguments.only in f"{fault.func.__module__}.{fault.func.__name__}"]
    with tempfile.TemporaryDirectory() as scratch:
        stage = Stage(Path(scratch), list(dict.fromkeys(fault.keywords["kind"] for fault in chosen)))
        with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
            running = {pool.submit(fault, stage): i for i, fault in enumerate(chosen)}
            results = {}
            for future in as_completed(running):
                tried = results[running[future]] = future.result()
                print(f"{'WRONG' if tried.wrong else 'good '}  {tried.fault}: {tried.times} times; {tried.came}")
                for wrong in tried.wrong:
                    print(f"       {wrong}")
    if not disk.can_mount():
        print("skipped: full and read-only disks (no unshare, or it may not make user namespaces here)")
    minutes = (time.monotonic() - started) / 60
    print(f"{len(results)} faults, {sum(bool(tried.wrong) for tried in results.values())} wrong, {minutes:.1f} minutes")
    if arguments.out is not None:
        names = ("peftlit", "lightning", "torch", "transformers", "peft", "bitsandbytes")
        versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in names)
        head = _PAGE.format(minutes=f"{minutes:.0f}", cores=os.cpu_count(), versions=versions)
        rows = (results[i] for i in sorted(results))
        table = "".join(f"| {t.fault} | {t.times} | {'**wrong**: ' * bool(t.wrong)}{t.came} |\n" for t in rows)
        arguments.out.write_text(head + table, encoding="utf-8")
    return int(any(tried.wrong for tried in results.values()))


if __name__ == "__main__":
    sys.exit(main())
