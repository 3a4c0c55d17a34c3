from __future__ import annotations

import json
import logging
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from lightning import Trainer, seed_everything
from transformers import ByT5Tokenizer

from peftlit.data import TextDataModule, TextFiles
from peftlit.errors import ConfigError
from tests import tiny
from tests.conftest import toy_rows
from tests.data.helpers import Listener, labelled, own_set, refusal, text_files


def _encoded(data: TextDataModule) -> dict[int, dict[str, Any]]:
    """Return what one epoch's training batches hold, by source row."""
    data.prepare_data()
    data.setup("fit")
    rows = {}
    for batch in data.train_dataloader():
        for i, row in enumerate(batch["row"].tolist()):
            kept = batch["attention_mask"][i].bool()
            rows[row] = {"ids": batch["input_ids"][i][kept].tolist(), "label": int(batch["labels"][i])}
    return rows


def _ready(folder: Path, encoder: str, *stages: str, **settings: Any) -> TextFiles:
    data = text_files(folder, toy_rows(60), **{"tokenizer": encoder, "batch_size": 4, **settings})
    for stage in stages or ("fit",):
        data.setup(stage)
    return data


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "data.batch_size: got 0, needs 1 or more"),
        ({"max_length": 0}, "data.max_length"),
        ({"num_proc": 0}, "data.num_proc"),
        ({"eval_batch_size": 0}, "data.eval_batch_size"),
        ({"tokens_per_batch": 0}, "data.tokens_per_batch"),
        ({"max_train_samples": 0}, "data.max_train_samples: got 0, needs 1 or more"),
        ({"validation_share": 1.0}, "data.validation_share: got 1.0, needs a fraction from 0 to below 1"),
        ({"test_share": -0.1}, "data.test_share"),
        ({"validation_share": 0.5, "test_share": 0.5}, "validation_share 0.5 and test_share 0.5 leave no"),
        ({"cleaning_steps": ["lower"]}, "data.cleaning_steps: no step 'lower'; there are html, tags, whitespace"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_read(settings, says):
    with pytest.raises(ConfigError, match=says):
        TextFiles(train_file="there is no such file", **settings)


def test_rows_are_numbered_from_one_in_their_source_through_every_cut(tmp_path):
    rows = toy_rows(100)
    splits = text_files(tmp_path, rows, validation_share=0.1, test_share=0.2).read()
    assert {name: len(part) for name, part in splits.items()} == {"train": 70, "validation": 10, "test": 20}
    for part in splits.values():
        assert [rows[number - 1]["text"] for number in part["row"]] == part["text"][:]
    assert sorted(number for part in splits.values() for number in part["row"]) == list(range(1, 101))


def test_a_setting_that_is_changed_before_the_rows_are_read_counts(tmp_path):
    data = text_files(tmp_path, toy_rows(100), validation_share=0.1, test_share=0.0)
    data.validation_share, data.max_train_samples = 0.3, 5
    assert {split: len(rows) for split, rows in data.read().items()} == {"train": 5, "validation": 30}


def test_row_numbers_count_rows_not_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a\nb",x\nc,y\n\nd,\n', encoding="utf-8")
    assert f"{path}, row 3: no label" in refusal(TextFiles(train_file=str(path)).read)


def test_a_data_set_of_ones_own_is_a_class_with_one_method():
    sizes = {name: len(rows) for name, rows in own_set(train="ab" * 20, notes="x").read().items()}
    assert sizes == {"train": 32, "validation": 4, "test": 4}, "splits of other names are left out"
    assert refusal(own_set(test="ab").read) == "Mine: load() gave no train split, only test"
    assert refusal(own_set(train="ab", test="").read) == "Mine test: no rows"
    assert "Mine train, row 2: no label" in refusal(own_set(train=["a", None]).read)


def test_splits_are_compared_with_those_before_them_whatever_the_order_given():
    data = own_set(test="ab", validation="ab", train="ab")
    assert {split: report.shared for split, report in data.reports.items()} == {
        "train": {},
        "validation": {"train": [1, 2]},
        "test": {"train": [1, 2], "validation": [1, 2]},
    }


def test_text_pairs_are_encoded_together(tmp_path, encoder):
    rows = [{"text": "good film", "b": "bad plot", "label": 0}, {"text": "sad", "b": "it is", "label": 1}]
    data = text_files(tmp_path, rows, text_pair_column="b", tokenizer=encoder)
    assert [data.get_tokenizer().decode(kept["ids"]) for _, kept in sorted(_encoded(data).items())] == [
        "[CLS] good film [SEP] bad plot [SEP]",
        "[CLS] sad [SEP] it is [SEP]",
    ]
    assert "no column 'c'" in refusal(text_files(tmp_path, rows, text_pair_column="c").read)


def test_a_pair_repeats_only_where_both_texts_do(tmp_path):
    pairs = [("a", "b"), ("a", "c"), ("ab", ""), ("a", "b"), ("", "ab")]
    rows = [{"text": a, "b": b, "label": i % 2} for i, (a, b) in enumerate(pairs)]
    report = text_files(tmp_path, rows, text_pair_column="b").manifest()["splits"]["train"]
    assert report["duplicate_rows"] == [4]
    assert report["empty_text_rows"] == [3, 5], "a pair with one empty text is worth a look"


def test_strict_refuses_again_when_asked_again(tmp_path):
    data = text_files(tmp_path, [*labelled("ab"), {"text": "", "label": "a"}], strict=True)
    assert refusal(data.read) == refusal(data.read)


def test_rows_are_tokenized_once_and_mapped_from_disk_after(tmp_path, encoder, tokenized):
    rows = toy_rows(40, seed=1)
    first = text_files(tmp_path, rows, tokenizer=encoder, validation_share=0.1)
    batches = _encoded(first)
    assert tokenized == Counter(row["text"] for row in rows)
    assert all(part.cache_files for part in first._encoded.values())
    assert _encoded(text_files(tmp_path, rows, tokenizer=encoder, validation_share=0.1)) == batches
    assert tokenized.total() == 40, "a second run finds the rows in the cache"


@pytest.mark.parametrize("changed", ["max_length", "split_seed", "tokenizer", "truncation_side", "text"])
def test_the_cache_is_not_used_for_anything_else(tmp_path, encoder, tokenized, changed):
    rows, settings = toy_rows(40, seed=2), {"tokenizer": encoder, "validation_share": 0.1, "max_length": 9}
    _encoded(text_files(tmp_path, rows, **settings))
    before = tokenized.total()
    tiny.write_tokenizer(tmp_path / "other", decoder=changed == "tokenizer")
    if changed == "truncation_side":
        file = tmp_path / "other" / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), changed: "left"}))
    if changed == "text":
        rows[0]["text"] = "new"
    else:
        settings |= {"max_length": {"max_length": 5}, "split_seed": {"split_seed": 3}}.get(
            changed, {"tokenizer": str(tmp_path / "other")}
        )
    data = text_files(tmp_path, rows, **settings)
    found, tokenizer = _encoded(data), data.get_tokenizer()
    assert tokenized.total() > before
    for row, kept in found.items():
        ids = tokenizer(rows[row - 1]["text"], truncation=True, max_length=data.max_length)["input_ids"]
        assert kept["ids"] == ids


def test_cached_rows_take_the_label_ids_of_this_run(tmp_path, encoder):
    rows = labelled(["neg", "pos", "pos"])
    for names in (["neg", "pos"], ["pos", "neg"]):
        found = _encoded(text_files(tmp_path, rows, tokenizer=encoder, label_names=names))
        assert [names[found[row]["label"]] for row in (1, 2, 3)] == ["neg", "pos", "pos"]


def test_tokenizing_in_several_processes_gives_the_same_rows(tmp_path, encoder):
    rows = toy_rows(20, seed=3)
    alone = _encoded(text_files(tmp_path, rows, tokenizer=encoder, max_length=9))
    for file in Path(datasets.config.HF_DATASETS_CACHE, "peftlit").glob("*/rows*.arrow"):
        file.unlink()
    assert _encoded(text_files(tmp_path, rows, tokenizer=encoder, max_length=9, num_proc=2)) == alone


def test_a_tokenizer_written_in_python_works(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path / "bytes")
    found = _encoded(text_files(tmp_path, labelled("ab"), tokenizer=str(tmp_path / "bytes")))
    assert sorted(found) == [1, 2]


def test_no_tokenizer_is_an_error_that_says_so(tmp_path):
    data = text_files(tmp_path, labelled("ab"))
    data.read()
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        data.prepare_data()


def test_the_model_can_ask_how_rows_are_padded(tmp_path, encoder):
    data = text_files(tmp_path, labelled("ab"), tokenizer=encoder, padding_side="left")
    spec = data.data_spec()
    assert (spec.pad_token_id, spec.padding_side) == (1, "left")
    assert (spec.tokenizer_size, spec.max_length) == (len(data.get_tokenizer()), data.max_length)


def test_a_stage_maps_only_the_splits_it_needs_and_a_split_that_is_absent_has_no_loader(tmp_path, encoder):
    for stage, ready in {
        "fit": "train validation",
        "validate": "validation",
        "test": "test",
        "predict": "test",
    }.items():
        data = _ready(tmp_path, encoder, stage, validation_share=0.2, test_share=0.2)
        assert set(data._encoded) == set(ready.split()), stage
    data = _ready(tmp_path, encoder, "fit", "test")
    assert data.val_dataloader() == data.test_dataloader() == data.predict_dataloader() == []


def test_training_and_evaluation_have_their_own_batch_sizes_seeds_and_budgets(tmp_path, encoder, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    with torch.random.fork_rng(devices=[]):
        seed_everything(7, verbose=False)
    for settings, train, evaluation in (
        ({}, (4, True, 7), (8, False, 42)),
        ({"eval_batch_size": 3, "seed": 3, "split_seed": 5}, (4, True, 3), (3, False, 5)),
    ):
        data = _ready(tmp_path, encoder, validation_share=0.5, **settings)
        samplers = [loader.sampler for loader in (data.train_dataloader(), data.val_dataloader())]
        assert [(s.batch_size, s.shuffle, s.seed) for s in samplers] == [train, evaluation]
    data = _ready(tmp_path, encoder, validation_share=0.5, tokens_per_batch=48, batch_size=16)
    assert all(batch["input_ids"].numel() <= 48 for batch in data.train_dataloader())
    assert max(batch["input_ids"].numel() for batch in data.val_dataloader()) > 48


def test_lightning_moves_the_sampler_from_epoch_to_epoch(tmp_path, encoder):
    data = text_files(tmp_path, toy_rows(30), tokenizer=encoder, batch_size=4, seed=1)
    listener = Listener()
    trainer = Trainer(max_epochs=3, accelerator="cpu", use_distributed_sampler=False, logger=False, barebones=True)
    trainer.fit(listener, datamodule=data)
    sampler = data.train_dataloader().sampler
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert listener.rows[epoch] == [[i + 1 for i in rows] for rows in sampler]
    assert listener.rows[0] != listener.rows[1] != listener.rows[2]


def test_the_manifest_says_what_was_cut_and_where_rows_are_from(tmp_path, toy_data):
    manifest = text_files(tmp_path, labelled(["a", "b"] * 20), labelled("ab"), validation_share=0.1).manifest()
    assert manifest["cut_from_train"] == {"shares": {"train": 0.9, "validation": 0.1}, "seed": 42}
    files = {split: Path(file).name for split, file in manifest["sources"].items()}
    assert files == {"train": "train.jsonl", "validation": "train.jsonl", "test": "test.jsonl"}
    labels = {split: entry["labels"] for split, entry in manifest["splits"].items()}
    assert labels == {"train": {"a": 18, "b": 18}, "validation": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}}
    assert (manifest["label_names"], manifest["cleaning"]) == (["a", "b"], {})
    files = {f"{name}_file": str(toy_data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    given = TextFiles(**files).manifest()
    assert given["cut_from_train"] is None
    assert [given["splits"][name]["rows"] for name in ("train", "validation", "test")] == [96, 24, 30]


def test_processes_that_cannot_share_a_split_are_refused_before_any_weight_loads(tmp_path, encoder):
    data = text_files(tmp_path, labelled([0, 1, 0, 1]), labelled([1]), tokenizer=encoder)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"^trainer.devices: 2 processes cannot share the 1 rows of test; set 1 or f"):
        data.setup("test")


def test_a_limited_evaluation_scores_the_same_sample_whatever_the_training_seed(tmp_path, encoder, caplog):
    def limited(limit: float = 2, **settings: Any) -> TextDataModule:
        data = text_files(tmp_path, toy_rows(100), validation_share=0.5, tokenizer=encoder, batch_size=4, **settings)
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy, limit_val_batches=limit)
        data.setup("validate")
        return data

    def scored(data: TextDataModule) -> list[int]:
        return [row for batch in islice(data.val_dataloader(), 2) for row in batch["row"].tolist()]

    with caplog.at_level(logging.INFO, "peftlit"):
        data = limited()
        sample = scored(data)
        assert scored(data) == sample, "another validation, the same rows"
    assert len(sample) == data.rows_scored("validation") == 16
    assert caplog.messages.count("validation: a random sample of 16 rows is scored (trainer.limit_val_batches)") == 1
    assert scored(limited(seed=5)) == sample
    assert scored(limited(split_seed=5)) != sample
    data.trainer.limit_val_batches = 1.0
    data.val_dataloader()
    assert data.rows_scored("validation") == 50
