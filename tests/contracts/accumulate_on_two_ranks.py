"""Two gloo processes accumulate over unequal shares of each window; each writes the gradients it steps with.

Run as ``python -m tests.contracts.accumulate_on_two_ranks OUT MODEL_FOLDER PRECISION CLIP ADAPTER``; Lightning starts
the second process.
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.contracts.test_p05_accumulation import ON_TWO_RANKS, cut, gradients

if __name__ == "__main__":
    out, folder = map(Path, sys.argv[1:3])
    precision, clip, adapter = sys.argv[3], float(sys.argv[4]), sys.argv[5]
    rank = int(os.environ.get("LOCAL_RANK", 0))
    batches = cut([size for window in ON_TWO_RANKS for size in window])
    seen = gradients(
        folder,
        batches[rank::2],
        2,
        adapter=adapter,
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        precision=precision,
        gradient_clip_val=clip or None,
    )
    for step, found in enumerate(seen.steps):
        save_file(found, out / f"rank{rank}_step{step}.safetensors")
