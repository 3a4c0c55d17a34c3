"""The independent script: it shares no line with the package, and comes to the same blocks, masks and perplexity."""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from peftlit.data import WikiText2
from peftlit.data.masking import Masking
from tests import tiny
from tools import perplexity

SCRIPT = Path(perplexity.__file__)


@pytest.fixture(scope="module")
def wiki(tmp_path_factory) -> Path:
    """Articles of uneven lengths, a line per row; one line of a table looks like a heading, one ends as none does."""
    folder, chance = tmp_path_factory.mktemp("wiki"), random.Random(0)
    for split, count in (("train", 24), ("validation", 6), ("test", 10)):
        lines = []
        for number in range(count):
            lines += [f" = {' '.join(chance.choices(tiny.WORDS, k=3))} = \n", " = = Plot = = "]
            lines += [f" {' '.join(chance.choices(tiny.WORDS, k=chance.randint(1, 90)))} " for _ in range(number % 4)]
            lines += [" = not a heading ", " \n"]
        text = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def by_the_script(monkeypatch, capsys, *arguments: object) -> tuple[int, float]:
    """Tokens to find, and perplexity."""
    monkeypatch.setattr(sys, "argv", ["perplexity.py", *map(str, arguments)])
    capsys.readouterr()
    perplexity.main()
    out = capsys.readouterr().out
    found = re.search(r"(\d+) tokens to find\nloss \S+  perplexity (\S+)", out)
    assert found is not None, out
    return int(found[1]), float(found[2])


def test_it_imports_nothing_of_peftlit() -> None:
    names = [
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    ]
    assert "transformers" in names
    assert not [name for name in names if name.split(".")[0] in ("peftlit", "tests", "tools")]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_cuts_the_same_blocks(family: str, wiki: Path, model_folder) -> None:
    folder = model_folder(family)
    data = WikiText2(data_dir=str(wiki), tokenizer=str(folder), max_length=32, objective="causal")
    data.setup("test")
    texts = perplexity.articles(wiki / "test.jsonl")
    assert texts == data.read()["test"]["text"][:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = [(row["input_ids"], row["labels"]) for row in data._encoded["test"]]
    assert list(perplexity.causal_blocks(tokenizer, texts, 32)) == ours
    assert len(ours) > len(texts)


@pytest.mark.parametrize("whole_words", [False, True])
def test_it_hides_the_same_tokens(whole_words: bool, wiki: Path, model_folder) -> None:
    folder = model_folder("bert")
    masking = Masking(0.3, whole_words=whole_words, mask_share=0.5, random_share=0.3)
    data = WikiText2(
        data_dir=str(wiki), tokenizer=str(folder), max_length=32, objective="masked", masking=masking, mask_seed=7
    )
    data.setup("test")
    ours = [
        (ids[: sum(mask)], labels[: sum(mask)])
        for batch in data.test_dataloader()
        for ids, mask, labels in zip(
            *(batch[name].tolist() for name in ("input_ids", "attention_mask", "labels")), strict=True
        )
    ]
    options = argparse.Namespace(
        max_length=32, mask_seed=7, ratio=0.3, whole_words=whole_words, mask_share=0.5, random_share=0.3
    )
    texts = perplexity.articles(wiki / "test.jsonl")
    theirs = list(perplexity.masked_blocks(AutoTokenizer.from_pretrained(folder), texts, options))
    assert sorted(theirs) == sorted(ours)
    options.mask_seed = 8
    other = list(perplexity.masked_blocks(AutoTokenizer.from_pretrained(folder), texts, options))
    assert sorted(other) != sorted(ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "quantization"), [("llama", None), ("llama", "nf4-double"), ("bert", None), ("bert", "nf4-double")]
)
def test_it_comes_to_the_same_perplexity(
    family: str, quantization: str | None, wiki: Path, model_folder, tmp_path, monkeypatch, capsys
) -> None:
    import peftlit

    masked = family == "bert"
    lora = {"class_path": "peft.LoraConfig", "init_args": {"r": 4, "target_modules": tiny.TARGETS[family]}}
    backbone = {"name_or_path": str(model_folder(family)), "quantization": quantization}
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 5e-3}}
    init_args = {"backbone": backbone, "adapter": lora, "optimizer": optimizer}
    run = peftlit.fit(
        {
            "model": {"class_path": "MaskedLM" if masked else "CausalLM", "init_args": init_args},
            "data": {"class_path": "WikiText2", "init_args": {"data_dir": str(wiki), "max_length": 32}},
            "trainer": {"max_epochs": 2, "accelerator": "cpu", "precision": "32-true"},
        },
        run_dir=tmp_path / "run",
    )
    ours, arguments = run.metrics["test"], ["--masked"] if masked else []
    tokens, found = by_the_script(
        monkeypatch, capsys, "--adapter", run.path / "adapter", "--data_dir", wiki, "--max_length", 32, *arguments
    )
    assert tokens == ours["tokens"]
    # quantized layers compute in bfloat16, where the shape of a batch shows
    assert found == pytest.approx(ours["perplexity"], rel=2e-6 if quantization is None else 2e-4)
    base = by_the_script(
        monkeypatch, capsys, "--base", model_folder(family), "--data_dir", wiki, "--max_length", 32, *arguments
    )
    assert base[1] > 1.05 * found
