"""Peak host memory of ``peftlit test`` over what the imports hold, at several numbers of test rows.

Run as ``python -m tools.bench.evaluation_memory --run_dir RUN --data_dir FOLDER --rows 2000 12284``; the run learned
from a folder with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, of which the first rows are tested.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

_TEST = """
import resource, sys
import bitsandbytes, datasets, peftlit.commands, peftlit.modules, peftlit.run.load, torch
from peftlit.__main__ import main
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
code = main(sys.argv[1:])
print("over imports", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held)
sys.exit(code)
"""


def peak_kib(run_dir: Path, data_dir: Path, rows: int) -> int:
    """Test on the first rows in a fresh process; return its peak in KiB over what was held before."""
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
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return int(re.findall(r"over imports (\d+)", done.stdout)[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 12284])
    arguments = parser.parse_args()
    for number in arguments.rows:
        print(f"{number:,} rows: {peak_kib(arguments.run_dir, arguments.data_dir, number) / 1024:.1f} MiB over imports")
