"""Where a setting stands that is wrong: by the path of its key, not by the first text that looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlit.cli.config_places import located
from tests.conftest import errors_of

CONFIG = """\
# lora_alhpa, patience, batch_size, monitr: data.batch_size is for one device
model:
  class_path: SequenceClassification
  init_args:
    backbone: {name_or_path: nowhere, quantization: NF}
    adapter: &adapter
      class_path: peft.LoraConfig
      init_args:
        target_modules: [r, query]
        r: R
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.1}}
    scheduler:
      class_path: LinearWarmup
      init_args: {warmup_ratio: W}
data:
  class_path: SST2
  init_args:
    data_dir: batch_size
    batch_size: B
trainer:
  max_epochs: 1
  callbacks:
    - class_path: EarlyStopping
      init_args: {monitor: val/f1, mode: max, patience: P1}
    - class_path: ModelCheckpoint
      init_args: {monitor: val/f1, mode: max}
    - class_path: EarlyStopping
      init_args:
        monitor: val/loss
        patience: P2
"""
GOOD = {"NF": "nf4", "R": "4", "W": "0.1", "B": "8", "P1": "3", "P2": "3"}


def _write(folder: Path, **changes: str) -> Path:
    text = CONFIG
    for name, value in {**GOOD, **changes}.items():
        text = text.replace(f": {name}", f": {value}")
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"NF": "nf5"}, [], "config.yaml, line 5: model.backbone.quantization: got 'nf5'"),
        ({"R": "x"}, [], "config.yaml, line 10: model.adapter.r: got 'x', expected int"),
        ({"R": "4\n        lora_alhpa: 8"}, [], "config.yaml, line 11: unknown key 'lora_alhpa' of LoraConfig"),
        ({"W": "x"}, [], "config.yaml, line 14: model.scheduler.warmup_ratio: got 'x', expected float"),
        ({"B": "x"}, [], "config.yaml, line 19: data.batch_size: got 'x', expected int"),
        ({"B": "x"}, ["--data.batch_size=4"], "config.yaml, line 19: data.batch_size: got 'x', expected int"),
        ({}, ["--data.batch_size", "x"], "command line: data.batch_size: got 'x', expected int"),
        ({}, ["--data.init_args.batch_size=x"], "command line: data.batch_size: got 'x', expected int"),
        ({"B": "8\ndta:\n  init_args: {batch_size: 1}"}, [], "config.yaml, line 20: unknown key 'dta'"),
        ({"P1": "x"}, [], "config.yaml, line 24: trainer.callbacks.patience: got 'x', expected int"),
        ({"P2": "x"}, [], "config.yaml, line 30: trainer.callbacks.patience: got 'x', expected int"),
        ({"P2": "3\n        monitr: x"}, [], "config.yaml, line 31: unknown key 'monitr' of EarlyStopping"),
        ({"B": "0"}, [], "config.yaml, line 19: data.batch_size: got 0, needs 1 or more"),
        ({}, ["--data.batch_size=0"], "command line: data.batch_size: got 0, needs 1 or more"),
        ({"B": "2024-13-01"}, [], "config.yaml: not YAML: month must be in 1..12"),
        ({"B": "8 # \x01"}, [], "config.yaml: not YAML: unacceptable character #x0001"),
    ],
)
def test_the_line_is_that_of_the_key(changes, more, said, peftlit, tmp_path, model_folder) -> None:
    path = _write(tmp_path, **changes)
    path.write_text(path.read_text().replace("nowhere", str(model_folder("bert"))))
    code, _, err = peftlit("fit", "--config", path.name, *more)
    (line,) = errors_of(err)
    assert (code, line.startswith(f"peftlit: error: {said}")) == (2, True), line


def test_an_overlay_is_named_where_it_is_the_one_that_is_wrong(peftlit, tmp_path) -> None:
    path = _write(tmp_path)
    (tmp_path / "overlay.yaml").write_text("# B\ndata: {init_args: {\n  batch_size: x}}\n", encoding="utf-8")
    _, _, err = peftlit("fit", "--config", path.name, "--config=overlay.yaml")
    assert err.startswith("peftlit: error: overlay.yaml, line 3: data.batch_size: got 'x'")


def test_a_message_gets_a_place_only_where_the_user_has_set_the_key(tmp_path) -> None:
    arguments = ["fit", "--config", str(_write(tmp_path)), "--trainer.devices=2"]
    for message, place in {
        "data.batch_size: got 0": f"{tmp_path}/config.yaml, line 19: ",
        "data.init_args.batch_size: got 0": f"{tmp_path}/config.yaml, line 19: ",
        "backbone.quantization: needs bitsandbytes": f"{tmp_path}/config.yaml, line 5: ",
        "trainer.devices: too many": "command line: ",
        **dict.fromkeys(
            ("data.max_length: got 0", "rows.csv: row 7", "trainer: Lightning's", "stopped by SIGTERM"), ""
        ),
    }.items():
        assert located(message, arguments) == f"{place}{message}"
