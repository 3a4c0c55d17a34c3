"""Two gloo processes accumulate over unequal shares of each window's tokens; each writes the gradients it steps with.

Run as ``python -m tests.contracts.accumulate_tokens_on_two_ranks LEARNED OUT MODEL_FOLDER CLIP``; Lightning starts the
second process. What an evaluation on both logs goes to a JSON file.
"""

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from tests.contracts.test_p05_accumulation import ON_TWO_RANKS
from tests.contracts.test_p05_tokens import language_gradients

if __name__ == "__main__":
    learned, out, folder, clip = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    rank = int(os.environ.get("LOCAL_RANK", 0))
    seen = language_gradients(
        learned,
        folder,
        [size for window in ON_TWO_RANKS for size in window],
        2,
        share=slice(rank, None, 2),
        devices=2,
        strategy="ddp",
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        gradient_clip_val=clip or None,
    )
    for step, found in enumerate(seen.steps):
        save_file({name: value.clone() for name, value in found.items()}, out / f"rank{rank}_step{step}.safetensors")
    (out / f"rank{rank}.json").write_text(json.dumps(seen.logged))
