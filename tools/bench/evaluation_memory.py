"""Peak host memory of ``peftlit test`` over what the imports hold, at several numbers of test rows.

Run as ``python -m tools.bench.evaluation_memory --run_dir RUN --data_dir FOLDER --rows 2000 12284``; the run learned
from a folder with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, of which the first rows are tested.

What is held is told apart from pages of mapped files, such as the token cache's, which the system takes back when it
needs them. The allocator's habits are told apart too, as they differ from one start of a command to the next by more
than is looked for: one arena, large blocks given back when they are freed, one tokenizer thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

_STEADY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(128 << 10), "RAYON_NUM_THREADS": "1"}
_TEST = """
import sys
import bitsandbytes, datasets, peftlit.cli.commands, peftlit.modules, peftlit.export.load, torch
from peftlit.__main__ import main

print("imported", flush=True)
sys.stdin.readline()
sys.exit(main(sys.argv[1:]))
"""


def resident_kib(pid: int) -> list[int]:
    """Return what a process holds, and that with its pages of mapped files."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return [int(lines[name].split()[0]) if name in lines else 0 for name in ("RssAnon", "VmRSS")]


def peak_kib(run_dir: Path, data_dir: Path, rows: int) -> list[int]:
    """Test on the first rows in a fresh process; return its peak over what was there before: held, and in all."""
    with tempfile.TemporaryDirectory() as name:
        run, data = Path(name, "run"), Path(name, "data")
        run.mkdir()
        data.mkdir()
        shutil.copytree(run_dir / "adapter", run / "adapter")
        for record in ("config.yaml", "metrics.json"):
            shutil.copy(run_dir / record, run)
        for split in ("train", "validation"):
            shutil.copy(data_dir / f"{split}.jsonl", data)
        with (data_dir / "test.jsonl").open(encoding="utf-8") as source:
            (data / "test.jsonl").write_text("".join(islice(source, rows)), encoding="utf-8")
        command = [sys.executable, "-c", _TEST, "test", "--run_dir", run, "--data.data_dir", data]
        with (Path(name, "said.txt")).open("w+", encoding="utf-8") as said:
            child = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env={**os.environ, **_STEADY},
            )  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            before = peak = resident_kib(child.pid)
            child.stdin.write("go\n")
            child.stdin.flush()
            while child.poll() is None:
                peak = list(map(max, peak, resident_kib(child.pid)))
            said.seek(0)
            if child.returncode != 0:
                raise RuntimeError(said.read())
    return [most - first for most, first in zip(peak, before, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 12284])
    arguments = parser.parse_args()
    for number in arguments.rows:
        held, resident = (kib / 1024 for kib in peak_kib(arguments.run_dir, arguments.data_dir, number))
        print(f"{number:,} rows: {held:.1f} MiB held over imports, {resident:.1f} with pages of mapped files")
