from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from transformers import ByT5Tokenizer

from peftlit.data import TextDataModule, TextFiles
from peftlit.errors import ConfigError
from tests import tiny
from tests.conftest import toy_rows
from tests.data.helpers import labelled, refusal, text_files


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


@pytest.fixture
def tokenized(monkeypatch, encoder) -> Counter[str]:
    """Count the texts that go through the tokenizer."""
    texts: Counter[str] = Counter()
    kind = type(TextFiles(train_file="-", tokenizer=encoder).get_tokenizer())
    whole = kind.__call__

    def counting(self, text, *args, **kwargs):
        texts.update(text)
        return whole(self, text, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", counting)
    return texts


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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch_size": 0}, "data.batch_size: got 0, needs 1 or more"),
        ({"max_length": 0}, "data.max_length"),
        ({"num_proc": 0}, "data.num_proc"),
        ({"eval_batch_size": 0}, "data.eval_batch_size"),
        ({"tokens_per_batch": 0}, "data.tokens_per_batch"),
        ({"validation_share": 1.0}, "data.validation_share: got 1.0, needs a fraction from 0 to below 1"),
        ({"test_share": -0.1}, "data.test_share"),
        ({"validation_share": 0.5, "test_share": 0.5}, "validation_share 0.5 and test_share 0.5 leave no"),
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
    numbers = [number for part in splits.values() for number in part["row"]]
    assert sorted(numbers) == list(range(1, 101))


def test_a_setting_that_is_changed_before_the_rows_are_read_counts(tmp_path):
    data = text_files(tmp_path, toy_rows(100), validation_share=0.1, test_share=0.0)
    data.validation_share, data.max_train_samples = 0.3, 5
    assert {split: len(rows) for split, rows in data.read().items()} == {"train": 5, "validation": 30}


def test_row_numbers_count_rows_not_lines(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"a\nb",x\nc,y\n\nd,\n', encoding="utf-8")
    data = TextFiles(train_file=str(path), validation_share=0.0, test_share=0.0)
    assert f"{path}, row 3: no label" in refusal(data.read)


def test_other_training_seeds_keep_the_split_and_other_split_seeds_do_not(tmp_path):
    def rows(**settings):
        splits = text_files(tmp_path, toy_rows(100), validation_share=0.2, **settings).read()
        return splits["validation"]["row"][:]

    assert rows(seed=1) == rows(seed=2)
    assert rows(split_seed=1) != rows(split_seed=2)


def test_a_set_without_a_train_split_is_refused():
    class Odd(TextDataModule):
        def load(self):
            return {"test": datasets.Dataset.from_list(labelled("ab"))}

    assert refusal(Odd().read) == "Odd: load() gave no train split, only test"


def test_a_data_set_of_ones_own_is_named_in_messages():
    class Mine(TextDataModule):
        def load(self):
            return {"train": datasets.Dataset.from_list(labelled(["a", None]))}

    assert "Mine train, row 2: no label" in refusal(Mine().read)


def test_text_pairs_are_encoded_together(tmp_path, encoder):
    rows = [{"text": "good film", "b": "bad plot", "label": 0}, {"text": "sad", "b": "it is", "label": 1}]
    data = text_files(tmp_path, rows, text_pair_column="b", tokenizer=encoder)
    tokenizer = data.get_tokenizer()
    assert {row: tokenizer.decode(kept["ids"]) for row, kept in _encoded(data).items()} == {
        1: "[CLS] good film [SEP] bad plot [SEP]",
        2: "[CLS] sad [SEP] it is [SEP]",
    }


def test_a_pair_repeats_only_where_both_texts_do(tmp_path):
    pairs = [("a", "b"), ("a", "c"), ("ab", ""), ("a", "b"), ("", "ab")]
    rows = [{"text": a, "b": b, "label": i % 2} for i, (a, b) in enumerate(pairs)]
    report = text_files(tmp_path, rows, text_pair_column="b").manifest()["splits"]["train"]
    assert report["duplicate_rows"] == [4]
    assert report["empty_text_rows"] == [3, 5], "a pair with one empty text is worth a look"


@pytest.mark.parametrize("missing", ["text", "b", "label"])
def test_a_column_that_is_not_there_is_refused(tmp_path, missing):
    rows = [{name: "x" for name in ("text", "b", "label") if name != missing}]
    assert f"no column {missing!r}" in refusal(text_files(tmp_path, rows, text_pair_column="b").read)


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


@pytest.mark.parametrize("changed", ["max_length", "split_seed", "tokenizer", "text"])
def test_the_cache_is_not_used_for_anything_else(tmp_path, encoder, tokenized, changed):
    rows, settings = toy_rows(40, seed=2), {"tokenizer": encoder, "validation_share": 0.1}
    _encoded(text_files(tmp_path, rows, **settings))
    before = tokenized.total()
    tiny.write_tokenizer(tmp_path / "other", decoder=True)
    if changed == "text":
        rows[0]["text"] = "new"
    else:
        settings[changed] = {"max_length": 5, "split_seed": 3, "tokenizer": str(tmp_path / "other")}[changed]
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


def test_cached_rows_are_cut_on_the_side_of_this_runs_tokenizer(tmp_path):
    rows = [{"text": "good film bad plot", "label": 0}, {"text": "sad", "label": 1}]
    for side, kept in (("right", "[CLS] good film [SEP]"), ("left", "[CLS] bad plot [SEP]")):
        folder = tmp_path / side
        tiny.write_tokenizer(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": side}))
        data = text_files(tmp_path, rows, tokenizer=str(folder), max_length=4)
        assert data.get_tokenizer().decode(_encoded(data)[1]["ids"]) == kept


def test_long_rows_are_cut_and_short_ones_are_not_padded_to_the_limit(tmp_path, encoder):
    rows = [{"text": "good " * 50, "label": 0}, {"text": "bad", "label": 1}]
    data = text_files(tmp_path, rows, tokenizer=encoder, max_length=8, batch_size=1)
    found = _encoded(data)
    assert (len(found[1]["ids"]), len(found[2]["ids"])) == (8, 3)
    assert sorted(batch["input_ids"].shape[1] for batch in data.train_dataloader()) == [3, 8]


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


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_model_can_ask_how_rows_are_padded(tmp_path, encoder, padding_side):
    data = text_files(tmp_path, labelled("ab"), tokenizer=encoder, padding_side=padding_side)
    facts = data.data_spec()
    assert (facts.pad_token_id, facts.padding_side) == (1, padding_side)
    assert (facts.tokenizer_size, facts.max_length) == (len(data.get_tokenizer()), data.max_length)


@pytest.mark.parametrize(
    ("stage", "ready"),
    [("fit", "train validation"), ("validate", "validation"), ("test", "test"), ("predict", "test")],
)
def test_a_stage_maps_only_the_splits_it_needs(tmp_path, encoder, stage, ready):
    data = text_files(tmp_path, toy_rows(40), tokenizer=encoder, validation_share=0.2, test_share=0.2)
    data.prepare_data()
    data.setup(stage)
    assert set(data._encoded) == set(ready.split())


def test_a_split_that_is_absent_has_no_loader(tmp_path, encoder):
    data = text_files(tmp_path, toy_rows(40), tokenizer=encoder)
    data.setup("fit")
    data.setup("test")
    assert data.val_dataloader() == data.test_dataloader() == data.predict_dataloader() == []


def test_a_share_too_small_for_one_row_is_refused(tmp_path):
    message = refusal(text_files(tmp_path, toy_rows(8), validation_share=0.02).read)
    assert "train.jsonl" in message
    assert "validation_share" in message


@pytest.mark.parametrize(("given", "used"), [(None, 8), (3, 3)])
def test_evaluation_takes_twice_the_rows_unless_told(tmp_path, encoder, given, used):
    data = text_files(
        tmp_path, toy_rows(60), tokenizer=encoder, validation_share=0.5, batch_size=4, eval_batch_size=given
    )
    data.setup("fit")
    assert max(len(batch["row"]) for batch in data.val_dataloader()) == used
    assert {len(batch["row"]) for batch in data.train_dataloader()} == {4, 3}


def test_the_token_budget_binds_training_alone(tmp_path, encoder):
    data = text_files(tmp_path, toy_rows(60), tokenizer=encoder, validation_share=0.5, tokens_per_batch=48)
    data.setup("fit")
    assert all(batch["input_ids"].numel() <= 48 for batch in data.train_dataloader())
    assert max(batch["input_ids"].numel() for batch in data.val_dataloader()) > 48


@pytest.mark.parametrize("given", [None, 3])
def test_the_training_order_follows_seed_everything_unless_told(tmp_path, encoder, monkeypatch, given):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    with torch.random.fork_rng(devices=[]):
        seed_everything(7, verbose=False)
    data = text_files(tmp_path, toy_rows(40), tokenizer=encoder, seed=given)
    data.setup("fit")
    assert data.train_dataloader().sampler.seed == (given or 7)


class _Listener(LightningModule):
    """Learns nothing and remembers which rows came in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.rows: dict[int, list[list[int]]] = {}

    def training_step(self, batch, _):
        self.rows.setdefault(self.current_epoch, []).append(batch["row"].tolist())
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_moves_the_sampler_from_epoch_to_epoch(tmp_path, encoder):
    data = text_files(tmp_path, toy_rows(30), tokenizer=encoder, batch_size=4, seed=1)
    listener = _Listener()
    trainer = Trainer(max_epochs=3, accelerator="cpu", use_distributed_sampler=False, logger=False, barebones=True)
    trainer.fit(listener, datamodule=data)
    sampler = data.train_dataloader().sampler
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert listener.rows[epoch] == [[i + 1 for i in rows] for rows in sampler]
    assert listener.rows[0] != listener.rows[1] != listener.rows[2]


def test_the_manifest_is_plain_json_that_names_every_row(tmp_path):
    rows = [*labelled(["a", "b"] * 20), {"text": " ", "label": "a"}, {"text": "good film 1", "label": "b"}]
    data = text_files(tmp_path, rows, test=labelled("ab"), validation_share=0.1, split_seed=5)
    manifest = data.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["label_names"] == ["a", "b"]
    assert manifest["cut_from_train"] == {"shares": {"train": 0.9, "validation": 0.1}, "seed": 5}
    assert manifest["cleaning"] == {}
    for name, part in data.read().items():
        entry = manifest["splits"][name]
        assert entry["rows"] == len(entry["row_hashes"]) == len(part)
        assert sum(entry["labels"].values()) == len(part)
        assert Path(manifest["sources"][name]).name == ("test.jsonl" if name == "test" else "train.jsonl")
    assert manifest["splits"]["test"]["duplicates_of"]
    assert sum(entry["empty_texts"] for entry in manifest["splits"].values()) == 1


def test_splits_that_are_all_given_are_not_cut(toy_data):
    files = {f"{name}_file": str(toy_data / f"{name}.jsonl") for name in ("train", "validation", "test")}
    manifest = TextFiles(**files).manifest()
    assert manifest["cut_from_train"] is None
    assert [manifest["splits"][name]["rows"] for name in ("train", "validation", "test")] == [96, 24, 30]


def test_processes_that_cannot_share_a_split_are_refused_before_any_weight_loads(tmp_path, encoder) -> None:
    data = text_files(tmp_path, labelled([0, 1, 0, 1]), labelled([1]), tokenizer=encoder)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"^trainer.devices: 2 processes cannot share the 1 rows of test; set 1"):
        data.setup("test")


def _trainer_of(rank: int = 0, world_size: int = 1, **limits: float) -> SimpleNamespace:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    limits = {f"limit_{stage}_batches": limits.get(stage, 1.0) for stage in ("val", "test", "predict")}
    return SimpleNamespace(global_rank=rank, world_size=world_size, strategy=strategy, **limits)


def _scored(data: TextDataModule, batches: int) -> list[int]:
    return [
        row for batch, _ in zip(data.val_dataloader(), range(batches), strict=False) for row in batch["row"].tolist()
    ]


def test_a_limited_evaluation_scores_the_same_sample_whatever_the_training_seed(tmp_path, encoder, caplog):
    rows = [{"text": "good " * (1 + i % 20), "label": i % 2} for i in range(100)]

    def limited(limit: float = 2, *, world_size: int = 1, rank: int = 0, **settings: Any) -> TextDataModule:
        settings = {"validation_share": 0.5, "tokenizer": encoder, "eval_batch_size": 8 // world_size, **settings}
        data = text_files(tmp_path, rows, **settings)
        data.trainer = _trainer_of(rank, world_size, val=limit)
        data.setup("validate")
        return data

    with caplog.at_level(logging.INFO, "peftlit"):
        data = limited()
        sample = _scored(data, 2)
        assert _scored(data, 2) == sample, "another validation, the same rows"
    assert len(sample) == data.rows_scored("validation") == 16
    assert caplog.messages.count("validation: a random sample of 16 rows is scored (trainer.limit_val_batches)") == 1
    assert _scored(limited(seed=5), 2) == sample
    assert _scored(limited(split_seed=5), 2) != sample
    assert _scored(limited(0.3), 2) == sample, "a fraction that leaves as many batches"
    ranks = [_scored(limited(world_size=2, rank=rank), 2) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == sorted(sample)
    whole = limited(1.0)
    assert whole.rows_scored("validation") == len(_scored(whole, 7)) == 50
    longest = max(len(rows[row - 1]["text"]) for row in whole.read()["validation"]["row"])
    assert len(rows[_scored(whole, 1)[0] - 1]["text"]) == longest, "memory shows in the sanity check"
