"""P14: perplexity is over all held-out tokens, as plain transformers gives it, under masks that never change."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from peftlit.backbone import Backbone
from peftlit.batch import IGNORE_INDEX
from peftlit.data import TextLines, masking
from peftlit.data.masking import EpochRows
from peftlit.export.write import export
from peftlit.modules import CausalLM, MaskedLM
from peftlit.modules.scores import TokenScores
from tests import tiny
from tests.conftest import toy_rows
from tests.data.language_data import documents, epoch_of, masks_of, on_rank, text_lines
from tests.modules.cases import make_trainer
from tests.modules.language_cases import lora, shake

MAX_LENGTH = 16
OBJECTIVES = [("causal", "llama"), ("causal", "gpt2"), ("masked", "bert")]


def write_documents(folder: Path) -> dict[str, str]:
    """Documents of 3 to 60 words: some are shorter than a block, some are several."""
    texts = [row["text"] for row in toy_rows(90)]
    documents = [" ".join(texts[i : i + 1 + i % 4]) for i in range(0, 88, 4)]
    files = {"train": documents[:12], "validation": documents[12:16], "test": documents[16:]}
    for split, those in files.items():
        (folder / f"{split}.txt").write_text("".join(f"{document}\n" for document in those))
    return {f"{split}_file": str(folder / f"{split}.txt") for split in files}


def held_out(folder: Path, tmp_path: Path, objective: Any, batch_size: int) -> TextLines:
    settings = {"tokenizer": str(folder), "max_length": MAX_LENGTH, "eval_batch_size": batch_size}
    return TextLines(**write_documents(tmp_path), objective=objective, **settings)


def plain_blocks(tokenizer: Any, documents: list[str]) -> list[tuple[list[int], list[int]]]:
    """Causal blocks with labels, by a loop of our own: each token but a document's first is predicted once."""
    blocks = []
    for document in documents:
        ids = [*tokenizer(document, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        start = 0
        while start < len(ids) - 1:
            block = ids[start : start + MAX_LENGTH]
            blocks.append((block, [IGNORE_INDEX, *block[1:]]))
            start += MAX_LENGTH - 1
    return blocks


def plain_perplexity(folder: Path, adapter: Path, blocks: list[tuple[list[int], list[int]]], objective: str) -> float:
    """Plain transformers' own loss of each block by itself, weighted by its tokens; nothing of peftlit, no padding."""
    auto_class = AutoModelForMaskedLM if objective == "masked" else AutoModelForCausalLM
    # peft has no task for masked language models, so that its wrapper leaves labels to the model
    model = PeftModel.from_pretrained(auto_class.from_pretrained(folder), adapter).eval()
    total, tokens = 0.0, 0
    for ids, labels in blocks:
        asked = sum(label != IGNORE_INDEX for label in labels)
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, tokens = total + float(loss) * asked, tokens + asked
    return math.exp(total / tokens)


def blocks_of(folder: Path, tmp_path: Path, objective: str) -> list[tuple[list[int], list[int]]]:
    """Causal blocks made anew from the file; masked ones with the masks that the data gives, one by one."""
    if objective == "causal":
        return plain_blocks(AutoTokenizer.from_pretrained(folder), (tmp_path / "test.txt").read_text().splitlines())
    single = held_out(folder, tmp_path, "masked", 1)
    single.setup("test")
    return [(batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) for batch in single.test_dataloader()]


def contract_perplexity(logged: dict[str, float], expected: float) -> None:
    assert logged["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert logged["loss"] == pytest.approx(math.log(expected), rel=1e-5)


def contract_tested_perplexity(folder: Path, tmp_path: Path, objective: str, family: str, batch_size: int) -> None:
    data = held_out(folder, tmp_path, objective, batch_size)
    kind = MaskedLM if data.is_masked else CausalLM
    module = shake(kind(Backbone(str(folder)), lora(family), data=data.data_spec()))
    export(module, data.get_tokenizer(), tmp_path / "adapter", {})
    blocks = blocks_of(folder, tmp_path, objective)
    expected = plain_perplexity(folder, tmp_path / "adapter", blocks, objective)
    trainer = make_trainer(-1, use_distributed_sampler=False)
    (logged,) = trainer.test(module, datamodule=data, verbose=False)
    contract_perplexity({name.removeprefix("test/"): value for name, value in logged.items()}, expected)
    asked = sum(label != IGNORE_INDEX for _, labels in blocks for label in labels)
    assert module.evaluation_extras == {"tokens": asked}


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize(("objective", "family"), OBJECTIVES)
def test_p14_perplexity_is_that_of_plain_transformers(objective, family, batch_size, language_folder, tmp_path):
    contract_tested_perplexity(language_folder(family), tmp_path, objective, family, batch_size)


@pytest.mark.parametrize(("objective", "family"), OBJECTIVES[1:])
def test_p14_goes_red_when_the_mean_of_batches_is_taken(objective, family, language_folder, tmp_path, monkeypatch):
    count = TokenScores.update

    def each_batch_alike(self: TokenScores, total: Any, tokens: Any, right: Any) -> None:
        count(self, total / tokens, torch.ones_like(tokens), right)

    monkeypatch.setattr(TokenScores, "update", each_batch_alike)
    with pytest.raises(AssertionError, match="[0-9.]+ == [0-9.]+ ±"):
        contract_tested_perplexity(language_folder(family), tmp_path, objective, family, 5)


def test_p14_goes_red_when_masks_depend_on_the_batch(language_folder, tmp_path, monkeypatch):
    """Drawn from one stream, masks differ from one batch size to another, and so does perplexity."""
    stream = torch.Generator().manual_seed(0)
    monkeypatch.setattr("peftlit.data.masking._generator", lambda *place: stream)
    with pytest.raises(AssertionError, match="[0-9.]+ == [0-9.]+ ±"):
        contract_tested_perplexity(language_folder("bert"), tmp_path, "masked", "bert", 5)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "family"), OBJECTIVES[1:])
def test_p14_what_a_run_records_is_that_of_plain_transformers(
    objective, family, language_folder, tmp_path, peftlit, settings, write_config
):
    folder, arguments = language_folder(family), settings["model"]["init_args"]
    settings["model"]["class_path"] = "MaskedLM" if objective == "masked" else "CausalLM"
    arguments["backbone"] = {"name_or_path": str(folder)}
    arguments["adapter"]["init_args"]["target_modules"] = tiny.TARGETS[family]
    rows = {**write_documents(tmp_path), "max_length": MAX_LENGTH, "batch_size": 4}
    settings["data"] = {"class_path": "TextLines", "init_args": rows}
    settings["trainer"] |= {"precision": "32-true"}
    settings["trainer"]["callbacks"][0]["init_args"] = {"monitor": "val/perplexity", "mode": "min"}
    for command in (["fit", "--config", write_config(settings)], ["test", "--data.eval_batch_size=1"]):
        code, _, err = peftlit(*command, "--run_dir=run")
        assert code == 0, err
        expected = plain_perplexity(folder, tmp_path / "run/adapter", blocks_of(folder, tmp_path, objective), objective)
        contract_perplexity(json.loads((tmp_path / "run/metrics.json").read_text())["test"], expected)


# The tokens that an evaluation hides ----------------------------------------------------------------------------------

SETTINGS: list[dict[str, Any]] = [
    {}, {"seed": 1}, {"seed": 2}, {"batch_size": 1}, {"eval_batch_size": 7}, {"group_by_length": False},
    {"tokens_per_batch": 40}, {"num_workers": 2}, {"num_workers": 2, "seed": 3, "eval_batch_size": 5},
]  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


@pytest.fixture
def lines(encoder, tmp_path):
    """Return a function that makes a data module of documents, with other settings."""
    shares = {"validation_share": 0.3, "test_share": 0.3}
    return partial(text_lines, tmp_path, documents(60), objective="masked", tokenizer=encoder, **shares)


def evaluated(data: TextLines, epoch: int = 0) -> list[dict[Any, Any]]:
    """What validation and test hide in an epoch."""
    data.setup("fit")
    data.setup("test")
    return [masks_of(epoch_of(loader, epoch)) for loader in (data.val_dataloader(), data.test_dataloader())]


def contract_evaluation_masks(lines: Callable[..., TextLines], **settings: Any) -> None:
    """With other batches, seeds, workers, in another epoch and amid another stream of chance: the same masks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = evaluated(lines())
    assert all(len(masks) > 18 for masks in expected)
    for epoch in (0, 3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch + 5)
            assert evaluated(lines(**settings), epoch) == expected


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_p14_evaluation_masks_are_always_the_same(settings, lines):
    contract_evaluation_masks(lines, **settings)


def test_p14_evaluation_masks_do_not_follow_seed_everything(lines, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    found = []
    for seed in (3, 4):
        with torch.random.fork_rng(devices=[]):
            seed_everything(seed, verbose=False)
        found.append(evaluated(lines()))
    assert found[0] == found[1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_p14_ranks_hide_what_one_process_hides(world_size, lines):
    alone, together = evaluated(lines()), [{}, {}]
    for rank in range(world_size):
        data = lines()
        data.trainer = on_rank(rank, world_size)
        for all_of_them, share in zip(together, evaluated(data), strict=True):
            assert not set(all_of_them) & set(share)
            all_of_them.update(share)
    assert together == alone


def test_p14_training_leaves_evaluation_masks_alone(lines):
    data = lines()
    before = evaluated(data)
    trained = [masks_of(epoch_of(data.train_dataloader(), epoch)) for epoch in range(2)]
    assert trained[0] != trained[1]
    assert evaluated(data) == before


# Breakers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}], ids=str)
def test_p14_breaker_masks_drawn_from_the_global_generator(settings, lines, monkeypatch):
    monkeypatch.setattr(masking, "_generator", lambda *place: torch.default_generator)
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, **settings)


def test_p14_breaker_masks_drawn_batch_by_batch(lines, monkeypatch):
    collate, one = masking.MaskingCollator.__call__, torch.Generator()

    def by_batch(self: Any, columns: Any) -> Any:
        one.manual_seed(self.seed)
        return collate(self, columns)

    monkeypatch.setattr(masking.MaskingCollator, "__call__", by_batch)
    monkeypatch.setattr(masking, "_generator", lambda *place: one)
    contract_evaluation_masks(lines, seed=1)
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, eval_batch_size=7)


def test_p14_breaker_evaluation_masks_by_the_training_seed(lines, monkeypatch):
    monkeypatch.setattr(TextLines, "mask_seed", property(lambda self: self._training_seed, lambda self, value: None))
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines, seed=1)


def test_p14_breaker_evaluation_masks_by_epoch(lines, monkeypatch):
    monkeypatch.setattr(TextLines, "_dataset", lambda self, split: EpochRows(self._encoded[split]))
    with pytest.raises(AssertionError):
        contract_evaluation_masks(lines)
