"""Kill runs in every position, on one process and on two, go on each time, and compare them bit for bit.

Run as ``python -m tools.resume [--ranks 1 2] [--out docs/resume_table.md]`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

_PAGE = """# Killed and resumed

Each run has two epochs, accumulates over two batches and saves at every step. It is killed with SIGKILL in one position
after another, and resumed each time with `--ckpt_path last`. A tick means: up to the next position the rows and losses,
and at the end the weights, scores, predictions and log history, equal bit for bit those of a run that was never
interrupted.
Made by `python -m tools.resume --out docs/resume_table.md` in {minutes:.0f} minutes.

"""


def main() -> int:
    """Print the table; return 0 if every cell is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes of a run")
    parser.add_argument("--out", type=Path, help="page to write")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    from tests.contracts import killed
    from tests.contracts.toy_runs import write_base

    started, columns = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        write_base(scratch / "base")
        for ranks in arguments.ranks:
            for stored, kind in killed.STORED.items():
                column = f"{stored}, {ranks} process{'es' * (ranks > 1)}"
                whole, cut = scratch / f"whole {column}", scratch / f"killed {column}"
                killed.write(whole, scratch / "base", kind, ranks)
                if killed.run(whole, ranks=ranks):
                    raise RuntimeError((whole / "said.txt").read_text())
                columns[column] = killed.killed_in_each_position(whole, cut, scratch / "base", kind, ranks)
                for position, odd in columns[column].items():
                    print(f"{column}, {position}: {odd or 'bit for bit'}", flush=True)
    positions = list(killed.positions(1))
    table = f"| killed | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    for position in positions:
        cells = ["✓" if found.get(position) == [] else "✗" for found in columns.values()]
        table += f"| {position} | {' | '.join(cells)} |\n"
    page = _PAGE.format(minutes=(time.monotonic() - started) / 60) + table
    print(page)
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")
    return int("✗" in table)


if __name__ == "__main__":
    sys.exit(main())
