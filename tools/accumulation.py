"""How far the gradients of N micro-batches are from those of one big batch, for every way to cut it.

Run as ``python -m tools.accumulation [--out docs/accumulation.md]`` from the root of the repository.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests import tiny
from tests.contracts.test_p05_accumulation import (
    PENALISED,
    RAGGED,
    TOLERANCE,
    contract_same_gradients,
    cut,
    gradients,
    on_two_ranks,
    windows,
)

_CLIP = 0.05
_PAGE = """# One large batch against many small ones

The largest absolute difference of any gradient, after clipping, between one large batch and the same rows in
micro-batches, on a tiny BERT without dropout. AdaLoRA and KaSA add a penalty on their weights, once per optimizer step.
Made by `python -m tools.accumulation --out docs/accumulation.md`.

| what trains | micro-batches | processes | precision | clipped to norm 0.05 | largest difference | largest gradient |
|---|---|---|---|---|---|---|
"""


def main() -> int:
    """Print the table; return 0 if float32 keeps the promise."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="page to write")
    arguments = parser.parse_args()
    rows, kept = [], True
    ragged = "ragged: 1 to 8 rows in windows of 3, the last one short"
    ragged_on_two = "ragged: 1 to 4 rows in windows of 2, the last one short"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bert"
        folder.mkdir()
        tiny.write_model(folder, "bert")
        for precision in ("32-true", "bf16-mixed"):
            for clip in (None, _CLIP):
                same = {"precision": precision, "gradient_clip_val": clip}
                for name, sizes, every in (
                    ("equal: 6 of 4 rows in windows of 3", [4] * 6, 3),
                    ("24 of one row, one window", [1] * 24, 24),
                    (ragged, RAGGED, 3),
                ):
                    one = gradients(folder, cut(windows(sizes, every)), 1, **same)
                    many = gradients(folder, cut(sizes), every, **same)
                    rows.append(("everything", name, 1, precision, clip, one, [many]))
                out = Path(scratch) / f"{precision} {clip}"
                out.mkdir()
                one, *ranks = on_two_ranks(folder, out, **same)
                rows.append(("everything", ragged_on_two, 2, precision, clip, one, ranks))
        for adapter in PENALISED:
            one = gradients(folder, cut(windows(RAGGED, 3)), 1, adapter=adapter)
            many = gradients(folder, cut(RAGGED), 3, adapter=adapter)
            rows.append((adapter, ragged, 1, "32-true", None, one, [many]))
            out = Path(scratch) / adapter
            out.mkdir()
            one, *ranks = on_two_ranks(folder, out, adapter=adapter)
            rows.append((adapter, ragged_on_two, 2, "32-true", None, one, ranks))
    lines = []
    for adapter, name, processes, precision, clip, one, others in rows:
        found = max(contract_same_gradients(one, each, tolerance=float("inf")) for each in others)
        kept = kept and (precision != "32-true" or found <= TOLERANCE)
        size = max(float(gradient.abs().max()) for step in one.steps for gradient in step.values())
        cells = [adapter, name, processes, precision, "yes" if clip else "no", f"{found:.1e}", f"{size:.1e}"]
        lines.append(f"| {' | '.join(map(str, cells))} |\n")
    print(_PAGE + "".join(lines))
    if arguments.out is not None:
        arguments.out.write_text(_PAGE + "".join(lines), encoding="utf-8")
    return int(not kept)


if __name__ == "__main__":
    sys.exit(main())
