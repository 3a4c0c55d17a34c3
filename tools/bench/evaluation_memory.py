"""Peak host memory of ``peftlit test`` over what the imports hold, at several numbers of test rows.

Run as ``python -m tools.bench.evaluation_memory --run_dir RUN --data_dir FOLDER --rows 2000 12284``; the run learned
from a folder with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, of which the first rows are tested.

What is held is told apart from pages of mapped files, such as the token cache's, which the system takes back when it
needs them. One malloc arena and one tokenizer thread, else the same command differs from itself by up to 90 MiB.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

_TEST = """
import sys, threading, time
import bitsandbytes, datasets, peftlit.commands, peftlit.modules, peftlit.run.load, torch
from peftlit.__main__ import main

def resident():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) for name in ("RssAnon", "VmRSS")]

before = peak = resident()

def watch():
    global peak
    while True:
        peak = [max(both) for both in zip(peak, resident())]
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
code = main(sys.argv[1:])
print("over imports", peak[0] - before[0], peak[1] - before[1])
sys.exit(code)
"""


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
        steady = {**os.environ, "MALLOC_ARENA_MAX": "1", "RAYON_NUM_THREADS": "1"}
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=steady)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return list(map(int, re.findall(r"over imports (\d+) (\d+)", done.stdout)[0]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 12284])
    arguments = parser.parse_args()
    for number in arguments.rows:
        held, resident = (kib / 1024 for kib in peak_kib(arguments.run_dir, arguments.data_dir, number))
        print(f"{number:,} rows: {held:.1f} MiB held over imports, {resident:.1f} with pages of mapped files")
