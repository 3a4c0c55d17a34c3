from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from peftlit.backbone import Backbone
from peftlit.data import StreamedText
from peftlit.data.stream import StreamCollator
from peftlit.errors import ConfigError, PeftlitError
from peftlit.modules import SequenceClassification
from tests import tiny
from tests.conftest import toy_rows
from tests.data.helpers import first_batch, labelled, refusal, write_jsonl

NAMES = ["negative", "positive"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


@pytest.fixture
def parts(tmp_path) -> str:
    """Four files of 25 rows."""
    for i in range(4):
        write_jsonl(tmp_path / f"part-{i}.jsonl", toy_rows(25, seed=i))
    return str(tmp_path / "part-*.jsonl")


def _streamed(train_file: str | list[str], **settings: Any) -> StreamedText:
    return StreamedText(**{"train_file": train_file, "label_names": NAMES, "batch_size": 4, **settings})


def _trainer(**settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(**{**quiet, "enable_model_summary": False, "accelerator": "cpu", "devices": 1, **settings})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train_file": None}, "StreamedText needs train_file .* or path"),
        ({"path": "a/b"}, "StreamedText needs train_file .* or path"),
        ({"label_names": None}, "data.label_names: the rows of a stream are not read ahead; name the labels here"),
        ({"validation_share": 0.1}, "data.validation_share: nothing is cut from a stream; give data.validation_file"),
        ({"test_share": 0.1}, "data.test_share: nothing is cut from a stream; give data.test_file"),
        ({"tokens_per_batch": 99}, "data.tokens_per_batch: a stream's rows are not known ahead; use data.batch_size"),
        ({"max_train_samples": 9}, "data.max_train_samples: a stream's rows are not known .* use trainer.max_steps"),
        ({"shuffle_buffer": 0}, "data.shuffle_buffer: got 0, needs 1 or more"),
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


def _as_csv(rows: list[dict[str, Any]], path: Path) -> None:
    datasets.Dataset.from_list(rows).to_csv(path, index=False)


def _as_tsv(rows: list[dict[str, Any]], path: Path) -> None:
    datasets.Dataset.from_list(rows).to_csv(path, index=False, sep="\t")


def _as_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    datasets.Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("jsonl", lambda rows, path: write_jsonl(path, rows)),
        ("csv", _as_csv),
        ("tsv", _as_tsv),
        ("parquet", _as_parquet),
    ],
)
def test_every_format_gives_the_rows_that_reading_them_whole_gives(tmp_path, encoder, ending, write):
    rows = [*toy_rows(15), {"text": 'say "hi",\n\tNA', "label": 1}]
    file = tmp_path / f"rows.{ending}"
    write(rows, file)
    data = _streamed(str(file), tokenizer=encoder, validation_file=str(file), eval_batch_size=1)
    data.setup("fit")
    whole = {int(batch["row"]): batch for batch in data.val_dataloader()}
    stream = iter(data.train_dataloader())
    streamed = [next(stream) for _ in range(4)]
    assert sorted(torch.cat([batch["row"] for batch in streamed]).tolist()) == list(range(1, 17))
    for batch in streamed:
        assert len(batch["row"]) == 4
        for i, row in enumerate(batch["row"].tolist()):
            kept = batch["attention_mask"][i].bool()
            assert batch["input_ids"][i][kept].tolist() == whole[row]["input_ids"][0].tolist()
            assert batch["labels"][i] == whole[row]["labels"][0]


def test_streamed_rows_are_never_written_to_disk(parts, encoder):
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    before = set(cache.rglob("*"))
    data = _streamed(parts, tokenizer=encoder)
    data.prepare_data()
    data.setup("fit")
    stream = iter(data.train_dataloader())
    for _ in range(30):
        next(stream)
    assert set(cache.rglob("*")) == before


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
        ("rows.xlsx", "PK", "rows.xlsx: cannot read .xlsx"),
        ("rows.jsonl", "", "rows.jsonl: the file is empty"),
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
    ("name", "content", "says"),
    [
        ("rows.jsonl", '{"text": "a", "label": 0}\n{"text": "b", "label": "good"}\n', "row 2: unknown label 'good'"),
        ("rows.jsonl", '{"text": "a", "label": 0}\n{"label": 0}\n', "row 2: no column 'text'"),
        ("rows.jsonl", '{"text": "a", "label": 0}\n{"text": \n', "line 2: not JSON"),
        ("rows.csv", "text,label\na,0\nb,0,c\n", "row 2 (line 3): 3 values for 2 columns"),
        ("rows.csv", "text,label\na,0\nb,\n", "row 2: no label in column 'label'"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_row_is_refused_in_one_line_when_it_comes(tmp_path, encoder, name, content, says, workers):
    (tmp_path / name).write_text(content, encoding="utf-8")
    data = _streamed(str(tmp_path / name), tokenizer=encoder, num_workers=workers, batch_size=2)
    data.read()
    message = refusal(lambda: first_batch(data.train_dataloader()))
    assert message.startswith(str(tmp_path / name))
    assert says in message


def test_workers_tokenize_in_one_thread_since_a_forked_tokenizer_waits_for_threads_that_it_lost(
    parts, encoder, monkeypatch
):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    monkeypatch.setattr(StreamCollator, "__call__", lambda self, rows: os.environ["TOKENIZERS_PARALLELISM"])
    data = _streamed(parts, tokenizer=encoder, num_workers=1)
    assert first_batch(data.train_dataloader()) == "false"
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_half_a_surrogate_pair_is_refused(tmp_path, encoder):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a", "label": 0}\n{"text": "b\\ud83d", "label": 0}\n', encoding="utf-8")
    data = _streamed(str(file), tokenizer=encoder, batch_size=2)
    data.read()
    message = refusal(lambda: first_batch(data.train_dataloader()))
    assert message == f"{file}, row 2: text holds half of a surrogate pair, which is no UTF-8"


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path, encoder):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"text": "a", "label": 0}\n' * 2000 + b'{"text": "caf\xe9", "label": 0}\n')
    data = _streamed(str(file), tokenizer=encoder, batch_size=2001)
    data.read()
    assert "line 2001: byte 0xe9 is not UTF-8" in refusal(lambda: first_batch(data.train_dataloader()))


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
    assert manifest["cut_from_train"] is None
    assert manifest["splits"]["validation"]["duplicate_rows"] == [4]
    assert manifest["splits"]["test"]["duplicates_of"] == {"validation": 2}
    assert set(manifest["lengths"]) == {"validation", "test"}
    bad = write_jsonl(tmp_path / "bad.jsonl", labelled([0, 7]))
    assert f"{bad}, row 2: unknown label 7" in refusal(_streamed(parts, validation_file=bad).read)


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path, encoder):
    file = tmp_path / "rows.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for i in range(12_000):
            out.write(f'{{"text": "good film {i} {"long " * 20}", "label": {i % 2}}}\n')
    peaks = []
    for batches in (10, 220):
        data = _streamed(str(file), tokenizer=encoder, batch_size=50, shuffle_buffer=200, max_length=8)
        stream = iter(data.train_dataloader())
        next(stream)
        tracemalloc.start()
        for _ in range(batches):
            next(stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert file.stat().st_size > 1.5e6
    assert peaks[1] < peaks[0] + 0.3e6, "twenty times the rows, the same memory"


# Under Lightning ---------------------------------------------------------------------------------------------------


class _Listener(LightningModule):
    """Learns nothing and remembers which rows came."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[list[int]] = []
        self.validated = 0

    def training_step(self, batch, _):
        self.batches.append(batch["row"].tolist())
        return self.weight * 0

    def validation_step(self, batch, _):
        self.validated += len(batch["row"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


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
        _trainer(**settings).fit(_Listener(), datamodule=data)
    assert str(refused.value) == says


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_goes_on_beyond_its_last_row_until_max_steps(parts, encoder, workers):
    data, listener = _streamed(parts, tokenizer=encoder, seed=3, num_workers=workers), _Listener()
    _trainer(max_steps=40).fit(listener, datamodule=data)
    assert [len(rows) for rows in listener.batches] == [4] * 40
    again = _Listener()
    _trainer(max_steps=40).fit(again, datamodule=_streamed(parts, tokenizer=encoder, seed=3, num_workers=workers))
    assert again.batches == listener.batches
    other = _Listener()
    _trainer(max_steps=40).fit(other, datamodule=_streamed(parts, tokenizer=encoder, seed=4, num_workers=workers))
    assert other.batches != listener.batches


@pytest.mark.parametrize(
    "settings", [{"max_steps": 6, "val_check_interval": 3}, {"max_steps": 6, "limit_train_batches": 3}]
)
def test_validation_comes_when_told(parts, encoder, settings):
    data, listener = _streamed(parts, tokenizer=encoder, validation_file=parts.replace("*", "0")), _Listener()
    _trainer(num_sanity_val_steps=0, **settings).fit(listener, datamodule=data)
    assert listener.validated == 2 * 25
    assert listener.batches[:3] != listener.batches[3:]


class _Losses(Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def test_a_model_trains_on_a_stream(parts, model_folder):
    folder = model_folder("bert")
    data = _streamed(parts, tokenizer=str(folder), validation_file=parts.replace("*", "0"), max_length=32, seed=0)
    torch.manual_seed(0)
    module = SequenceClassification(Backbone(str(folder)), data=data.data_spec())
    losses = _Losses()
    trainer = _trainer(max_steps=4, val_check_interval=2, callbacks=[losses])
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == len(losses.losses) == 4
    assert all(map(torch.isfinite, map(torch.tensor, losses.losses)))
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
        sets = {"train": [1, 2, 3], "validation": [4]}
        return {
            split: datasets.IterableDataset.from_generator(_shard_rows, gen_kwargs={"shards": shards})
            for split, shards in sets.items()
        }

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def _from_hub(**settings: Any) -> StreamedText:
    return StreamedText(**{"path": "some/set", "name": "plain", "label_names": NAMES, "batch_size": 5, **settings})


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_hub_set_is_streamed_and_its_validation_read_whole(hub, encoder, workers):
    data = _from_hub(tokenizer=encoder, num_workers=workers, revision="v1")
    assert {name: len(rows) for name, rows in data.read().items()} == {"validation": 10}
    assert hub == [("some/set", "plain", "v1", True)]
    assert data.sources == {"train": "some/set train", "validation": "some/set validation"}
    stream = iter(data.train_dataloader())
    rows = torch.cat([next(stream)["row"] for _ in range(6)]).tolist()
    assert sorted(rows) == sorted(list(range(1, 11)) * 3), "each of the 30 rows once, numbered within its shard"


def test_a_wrong_label_on_the_hub_is_named_with_shard_and_row(hub, encoder):
    data = _from_hub(tokenizer=encoder, shuffle_buffer=1)
    data.label_names = ["0", "2"]
    assert refusal(data.read) == "some/set validation, row 2: unknown label 1; known are 0, 2"
    data = _from_hub(tokenizer=encoder, shuffle_buffer=1)
    data.read()
    data._labels._ids._ids.pop("1")
    message = refusal(lambda: first_batch(data.train_dataloader()))
    assert message.startswith("some/set train, shard ")
    assert " of 3, row 2: unknown label 1" in message


def test_a_hub_set_without_train_is_refused(monkeypatch):
    rows = datasets.IterableDataset.from_generator(_shard_rows, gen_kwargs={"shards": [1]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: {"test": rows})
    assert refusal(_from_hub().read) == "some/set: has no train split, only test"
