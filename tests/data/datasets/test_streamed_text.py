from __future__ import annotations

import os
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning import LightningModule, Trainer

from peftlit.backbone import Backbone
from peftlit.data import StreamedText
from peftlit.data.stream import StreamCollator
from peftlit.errors import ConfigError, PeftlitError
from peftlit.modules import SequenceClassification
from tests.conftest import toy_rows
from tests.data.helpers import Listener, first_batch, labelled, refusal, write_jsonl

NAMES = ["negative", "positive"]


@pytest.fixture
def parts(tmp_path) -> str:
    """Four files of 25 rows."""
    for i in range(4):
        write_jsonl(tmp_path / f"part-{i}.jsonl", toy_rows(25, seed=i))
    return str(tmp_path / "part-*.jsonl")


def _streamed(train_file: str | list[str] | None, **settings: Any) -> StreamedText:
    return StreamedText(**{"train_file": train_file, "label_names": NAMES, "batch_size": 4, **settings})


def _rows_of(data: StreamedText, batches: int) -> list[list[int]]:
    return [batch["row"].tolist() for batch in islice(data.train_dataloader(), batches)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "a/b"}, "StreamedText needs train_file .* or path"),
        ({"label_names": None}, "data.label_names: the rows of a stream are not read ahead; name the labels here"),
        ({"validation_share": 0.1}, "data.validation_share: nothing is cut from a stream; give data.validation_file"),
        ({"test_share": 0.1}, "data.test_share: nothing is cut from a stream; give data.test_file"),
        ({"tokens_per_batch": 99}, "data.tokens_per_batch: a stream's rows are not known ahead; use data.batch_size"),
        ({"max_train_samples": 9}, "data.max_train_samples: a stream's rows are not known .* use trainer.max_steps"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer: got 0, needs 1 or more"),
        ({"objective": "causal"}, "data: StreamedText is for SequenceClassification; use TextFiles"),
    ],
)
def test_what_a_stream_cannot_do_is_refused_before_anything_is_read(settings, says):
    with pytest.raises(ConfigError, match=says):
        _streamed(**{"train_file": "-", **settings})


def test_values_need_no_label_names(tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", labelled([1, 2.5]))
    data = _streamed(file, label_names=None, problem_type="regression")
    data.read()
    assert data.label_names == ["label"]


def test_a_stream_gives_the_rows_that_reading_them_whole_gives_and_writes_none(tmp_path, encoder):
    file = write_jsonl(tmp_path / "rows.jsonl", toy_rows(16))
    data = _streamed(file, tokenizer=encoder, validation_file=file, eval_batch_size=1)
    data.setup("fit")
    whole = {int(batch["row"]): batch for batch in data.val_dataloader()}
    cached = set(Path(datasets.config.HF_DATASETS_CACHE).rglob("*"))
    streamed = list(islice(data.train_dataloader(), 4))
    assert sorted(torch.cat([batch["row"] for batch in streamed]).tolist()) == list(range(1, 17))
    for batch in streamed:
        assert len(batch["row"]) == 4
        for i, row in enumerate(batch["row"].tolist()):
            kept = batch["attention_mask"][i].bool()
            assert batch["input_ids"][i][kept].tolist() == whole[row]["input_ids"][0].tolist()
            assert batch["labels"][i] == whole[row]["labels"][0]
    assert set(Path(datasets.config.HF_DATASETS_CACHE).rglob("*")) == cached


def test_patterns_and_files_go_together(tmp_path, parts):
    extra = write_jsonl(tmp_path / "extra.jsonl", labelled([0]))
    data = _streamed([extra, parts, extra])
    data.read()
    assert [Path(source.name).name for source in data._train] == ["extra.jsonl", *(f"part-{i}.jsonl" for i in range(4))]
    assert data.sources == {"train": f"{extra}, {parts}, {extra}"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("no-*.jsonl", None, "no-*.jsonl: no such file"),
        ("rows.csv", "text,label\n", "rows.csv: a header but no rows"),
        ("rows.csv", "body,label\na,0\n", "rows.csv, row 1: no column 'text'; its columns are body, label"),
        ("rows.jsonl", '{"text": "a", "label": "good"}\n', "rows.jsonl, row 1: unknown label 'good'"),
        ("rows.parquet", "PAR1 and then nothing", "rows.parquet: "),
    ],
)
def test_a_file_that_starts_wrong_is_refused_at_the_start(tmp_path, parts, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert says in refusal(_streamed([parts, str(tmp_path / name)]).read)


@pytest.mark.parametrize(
    ("name", "second", "workers", "says"),
    [
        ("rows.jsonl", b'{"text": "b", "label": "good"}', 1, ", row 2: unknown label 'good'"),
        ("rows.jsonl", b'{"label": 0}', 0, ", row 2: no column 'text'"),
        ("rows.jsonl", b'{"text": \n', 1, ", line 2: not JSON"),
        (
            "rows.jsonl",
            b'{"text": "b\\ud83d", "label": 0}',
            0,
            ", row 2: text holds half of a surrogate pair, which is",
        ),
        ("rows.jsonl", b'{"text": "caf\xe9", "label": 0}', 0, ", line 2: byte 0xe9 is not UTF-8"),
        ("rows.csv", b"b,0,c\n", 0, ", row 2 (line 3): 3 values for 2 columns"),
        ("rows.csv", b"b,\n", 0, ", row 2: no label in column 'label'"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line_when_it_comes(tmp_path, encoder, name, second, workers, says):
    first = b"text,label\na,0\n" if name == "rows.csv" else b'{"text": "a", "label": 0}\n'
    (tmp_path / name).write_bytes(first + b" " * 10_000 * (b"\xe9" in second) + second)
    data = _streamed(str(tmp_path / name), tokenizer=encoder, num_workers=workers, batch_size=2)
    data.read()
    assert refusal(lambda: first_batch(data.train_dataloader())).startswith(f"{tmp_path / name}{says}")


def test_workers_tokenize_in_one_thread_since_a_forked_tokenizer_waits_for_threads_that_it_lost(
    parts, encoder, monkeypatch
):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setattr(StreamCollator, "__call__", lambda self, rows: os.environ["TOKENIZERS_PARALLELISM"])
    data = _streamed(parts, tokenizer=encoder, num_workers=1)
    assert first_batch(data.train_dataloader()) == "false"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_whole_splits_are_checked_counted_and_named_and_train_is_not_among_them(tmp_path, parts, encoder):
    rows = labelled([0, 1, 1])
    files = {
        "validation_file": write_jsonl(tmp_path / "validation.jsonl", [*rows, rows[0]]),
        "test_file": write_jsonl(tmp_path / "test.jsonl", rows[:2]),
    }
    data = _streamed(parts, tokenizer=encoder, **files)
    assert {name: len(rows) for name, rows in data.read().items()} == {"validation": 4, "test": 2}
    assert data.class_counts is None
    data.prepare_data()
    manifest = data.manifest()
    assert manifest["sources"] == {"train": parts, "validation": files["validation_file"], "test": files["test_file"]}
    assert (manifest["cut_from_train"], set(manifest["lengths"])) == (None, {"validation", "test"})
    assert manifest["splits"]["test"]["duplicates_of"] == {"validation": 2}
    bad = write_jsonl(tmp_path / "bad.jsonl", labelled([0, 7]))
    assert f"{bad}, row 2: unknown label 7" in refusal(_streamed(parts, validation_file=bad).read)


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, encoder):
    rows = ({"text": f"good film {i} {'long ' * 20}", "label": i % 2} for i in range(3_200))
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    peaks = []
    for batches in (5, 60):
        data = _streamed(file, tokenizer=encoder, batch_size=50, shuffle_buffer=200, max_length=8)
        stream = iter(data.train_dataloader())
        next(stream)
        tracemalloc.start()
        for _ in range(batches):
            next(stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert Path(file).stat().st_size > 0.4e6
    assert peaks[1] < peaks[0] + 0.3e6, "twelve times the rows, the same memory"


# Under Lightning ---------------------------------------------------------------------------------------------------


def _fit(module: LightningModule, data: StreamedText, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(**{**quiet, "enable_model_summary": False, "accelerator": "cpu", "devices": 1, **settings})
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_epochs": 1}, "trainer.max_steps: a stream has no end; say after how many steps training ends"),
        ({"max_steps": 4}, "trainer.val_check_interval: a stream has no end to validate at; give a number of batches"),
    ],
)
def test_the_trainer_has_to_say_when_training_ends_and_validation_comes(parts, encoder, settings, says):
    data = _streamed(parts, tokenizer=encoder, validation_file=parts.replace("*", "0"))
    with pytest.raises(PeftlitError) as refused:
        _fit(Listener(), data, **settings)
    assert str(refused.value) == says


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_beyond_its_last_row_until_max_steps(parts, encoder, workers):
    listener, settings = Listener(), {"tokenizer": encoder, "num_workers": workers}
    _fit(listener, _streamed(parts, seed=3, **settings), max_steps=40)
    assert [len(rows) for rows in listener.rows[0]] == [4] * 40
    assert _rows_of(_streamed(parts, seed=3, **settings), 40) == listener.rows[0]
    assert _rows_of(_streamed(parts, seed=4, **settings), 40) != listener.rows[0]


@pytest.mark.parametrize(
    "settings", [{"val_check_interval": 3}, {"limit_train_batches": 3}], ids=lambda s: next(iter(s))
)
def test_validation_comes_when_told(parts, encoder, settings):
    data, listener = _streamed(parts, tokenizer=encoder, validation_file=parts.replace("*", "0")), Listener()
    _fit(listener, data, max_steps=6, num_sanity_val_steps=0, **settings)
    assert listener.validated == 2 * 25
    assert (batches := sum(listener.rows.values(), []))[:3] != batches[3:]


def test_a_model_trains_on_a_stream(parts, model_folder):
    folder = str(model_folder("bert"))
    data = _streamed(parts, tokenizer=folder, validation_file=parts.replace("*", "0"), max_length=32, seed=0)
    module = SequenceClassification(Backbone(folder), data=data.data_spec())
    trainer = _fit(module, data, max_steps=4, val_check_interval=2)
    assert trainer.global_step == 4
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert "val/f1" in trainer.callback_metrics


# From the hub ------------------------------------------------------------------------------------------------------


def _shard_rows(shards: list[int]):
    for shard in shards:
        for i in range(10):
            yield {"text": f"shard {shard} row {i + 1}", "label": i % 2}


@pytest.fixture
def hub(monkeypatch) -> list[tuple[Any, ...]]:
    """Stand in for the hub: three training shards of ten rows, and a validation split."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path, name, *, revision, streaming):
        asked.append((path, name, revision, streaming))
        sets = {"validation": [4]} if path == "no/train" else {"train": [1, 2, 3], "validation": [4]}
        return {
            split: datasets.IterableDataset.from_generator(_shard_rows, gen_kwargs={"shards": shards})
            for split, shards in sets.items()
        }

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def _from_hub(**settings: Any) -> StreamedText:
    return _streamed(None, **{"path": "some/set", "name": "plain", "batch_size": 5, **settings})


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_hub_set_is_streamed_and_its_validation_read_whole(hub, encoder, workers):
    data = _from_hub(tokenizer=encoder, num_workers=workers, revision="v1")
    assert {name: len(rows) for name, rows in data.read().items()} == {"validation": 10}
    assert hub == [("some/set", "plain", "v1", True)]
    assert data.sources == {"train": "some/set train", "validation": "some/set validation"}
    rows = sorted(sum(_rows_of(data, 6), []))
    assert rows == sorted(list(range(1, 11)) * 3), "each of the 30 rows once, numbered within its shard"


def test_a_wrong_label_on_the_hub_is_named_with_shard_and_row_and_a_set_without_train_refused(hub, encoder):
    data = _from_hub(label_names=["0", "2"])
    assert refusal(data.read) == "some/set validation, row 2: unknown label 1; known are 0, 2"
    data = _from_hub(tokenizer=encoder, shuffle_buffer=1)
    data.read()
    data._labels._ids._ids.pop("1")
    message = refusal(lambda: first_batch(data.train_dataloader()))
    assert message.startswith("some/set train, shard ")
    assert " of 3, row 2: unknown label 1" in message
    assert refusal(_from_hub(path="no/train").read) == "no/train: has no train split, only validation"
