"""P23: a misspelt key costs one line (file, key, nearest valid one); no abbreviations; a saved config reruns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftlit import data, modules
from peftlit.cli import config_errors
from tests.conftest import errors_of

MISSPELT = [
    # old text, new text, key named, nearest named
    ("lora_alpha", "lora_alhpa", "lora_alhpa", "lora_alpha"),
    ("name_or_path", "name_or_pth", "name_or_pth", "name_or_path"),
    ("batch_size", "bach_size", "bach_size", "batch_size"),
    ("max_epochs", "max_epoch", "trainer.max_epoch", "trainer.max_epochs"),
    ("\ndata:", "\ndta:", "dta", "data"),
    ("monitor:", "monitr:", "monitr", "monitor"),
    ("warmup_ratio", "warmup_rati", "warmup_rati", "warmup_ratio"),
    ("lr: ", "lrr: ", "lrr", "lr"),
    ("    adapter:", "    adaptr:", "adaptr", "adapter"),
    ("peft.LoraConfig", "peft.LoraConfg", "LoraConfg", "LoraConfig"),
    ("LinearWarmup", "LinearWamup", "LinearWamup", "LinearWarmup"),
    ("class_path: SST2", "class_path: SST3", "SST3", "SST2"),
    ("ModelCheckpoint", "ModelChekpoint", "ModelChekpoint", "ModelCheckpoint"),
]


def contract_one_line_with_file_line_and_nearest(peftlit, path, old: str, new: str, key: str, nearest: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    code, _, err = peftlit("fit", "--config", path)
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    line = next(i for i, content in enumerate(path.read_text().splitlines(), 1) if new.strip(" \n:") in content)
    assert f"{path}, line {line}:" in err
    assert f"{key!r}" in err
    assert f"did you mean {nearest!r}?" in err


@pytest.mark.parametrize(("old", "new", "key", "nearest"), MISSPELT)
def test_p23_misspelt_key_is_one_line(peftlit, settings, write_config, old, new, key, nearest) -> None:
    contract_one_line_with_file_line_and_nearest(peftlit, write_config(settings), old, new, key, nearest)


def test_p23_breaker_raw_reports_fail_the_contract(peftlit, settings, write_config, monkeypatch) -> None:
    monkeypatch.setattr(config_errors, "one_line", lambda message, *_: message)
    with pytest.raises(AssertionError):
        contract_one_line_with_file_line_and_nearest(peftlit, write_config(settings), *MISSPELT[0])


COMMAND_LINE = [
    ("--trainer.max_step=3", "unknown option '--trainer.max_step=3'; did you mean '--trainer.max_steps'?"),
    ("--model.adapter.rr=3", "unknown key 'rr' of LoraConfig (model.adapter); did you mean 'r'?"),
    ("--data.bach_size=3", "unknown key 'bach_size' of SST2 (data); did you mean 'batch_size'?"),
    ("--data.batch_size=x", "data.batch_size: got 'x', expected int"),
    ("--trainer.max_epochs=x", "trainer.max_epochs: got 'x', expected int, null"),
    ("--model.backbone.quantization=nf5", "got 'nf5', expected one of nf4, nf4-double, fp4, fp4-double, int8, null"),
]


def assert_one_line(peftlit: Any, arguments: Any, message: str, codes: tuple[int, ...] = (2,)) -> None:
    code, _, err = peftlit(*arguments)
    assert code in codes
    assert len(err.strip().splitlines()) == 1, err
    assert message in err


@pytest.mark.parametrize(("argument", "message"), COMMAND_LINE)
def test_p23_wrong_command_line_is_one_line_and_never_an_abbreviation(
    peftlit, settings, write_config, argument, message
) -> None:
    assert_one_line(peftlit, ("fit", "--config", write_config(settings), argument), message)


def test_p23_no_yaml_and_no_file_are_one_line(peftlit, tmp_path) -> None:
    (tmp_path / "broken.yaml").write_text("model: [1,\ndata: 2")
    for arguments, part in (
        (("fit", "--config", "broken.yaml"), "broken.yaml, line 2: not YAML"),
        (("fit", "--config", "nope.yaml"), "--config nope.yaml: no such file"),
        (("fit",), "not given: fit.data, fit.model"),
        (("fitt",), "no command 'fitt'; did you mean 'fit'?"),
        (("test",), "test needs --run_dir RUN"),
    ):
        assert_one_line(peftlit, arguments, part, codes=(1, 2))


@pytest.fixture
def printed(peftlit):
    """Return a function that gives what ``--print_config`` prints of files laid over one another."""

    def run(*files: Path) -> dict[str, Any]:
        code, out, err = peftlit("fit", *(part for file in files for part in ("--config", file)), "--print_config")
        assert code == 0, err
        return yaml.safe_load(out)

    return run


def test_p23_print_config_round_trips(printed, settings, write_config) -> None:
    first = printed(write_config(settings))
    assert printed(write_config(first, "printed.yaml")) == first


def test_p23_second_config_overlays_key_by_key(printed, settings, write_config) -> None:
    overlay = write_config({"trainer": {"max_epochs": 7}, "data": {"init_args": {"batch_size": 5}}}, "overlay.yaml")
    printed = printed(write_config(settings), overlay)
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["data"]["init_args"]["batch_size"] == 5
    assert printed["data"]["init_args"]["max_length"] == 32


@pytest.mark.slow
def test_p23_saved_config_reruns_to_the_same_weights(peftlit, settings, write_config, tmp_path) -> None:
    for config, run_dir in ((write_config(settings), "a"), (tmp_path / "a/config.yaml", "b")):
        code, _, err = peftlit("fit", "--config", config, "--run_dir", run_dir)
        assert code == 0, err
    assert "run_dir" not in yaml.safe_load((tmp_path / "a/config.yaml").read_text())
    first, second = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in "ab")
    assert first["adapter_sha256"] == second["adapter_sha256"]
    assert (tmp_path / "a/config.yaml").read_text() == (tmp_path / "b/config.yaml").read_text()


LINKED = [
    ("model", "data", {"num_rows": 5}, "model.data.num_rows: 5 contradicts the data, which gives 96"),
    ("model", "data", {"label_names": ["a", "b"]}, "model.data.label_names: ['a', 'b'] contradicts the data"),
    ("model", "data", {"max_length": 7}, "model.data.max_length: 7 contradicts the data, which gives 32"),
    ("data", "tokenizer", "elsewhere", "data.tokenizer: 'elsewhere' contradicts backbone.name_or_path"),
]


@pytest.mark.parametrize(("where", "key", "value", "message"), LINKED)
def test_p23_a_linked_value_typed_otherwise_is_refused(
    peftlit, settings, write_config, where, key, value, message
) -> None:
    settings[where]["init_args"][key] = value
    code, _, err = peftlit("fit", "--config", write_config(settings))
    assert code == 2
    assert len(errors_of(err)) == 1
    assert message in err


BASES = {"DocumentDataModule", "TextDataModule", "TokenDataModule", "PeftModule"}
KINDS = [
    *(("data.help", kind, "--data.max_length") for kind in sorted(set(data.__all__) - BASES)),
    *(("model.help", kind, "--model.backbone") for kind in sorted(set(modules.__all__) - BASES)),
]


@pytest.mark.parametrize(("option", "kind", "shown"), KINDS)
def test_p23_every_setting_of_a_data_set_or_task_has_a_type_that_is_checked(option, kind, shown, peftlit) -> None:
    code, out, err = peftlit("fit", f"--{option}", kind)
    assert code == 0, err
    assert shown in out
    assert "Unvalidated" not in out, "the parser could not find out a setting's type"
