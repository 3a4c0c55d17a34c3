"""Bad input ends in one line, a non-zero exit, and an empty folder; a run can be continued, validated and predicted."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pytest
import torch
import yaml
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from peftlit.errors import BackboneError
from peftlit.plugins import precision
from tests.conftest import change, errors_of, read_json, run_in_process


def contract_one_line_and_nothing_written(result: tuple[int, str, str], folder: Path, code: int, message: str) -> None:
    assert result[0] == code
    assert errors_of(result[2]) == result[2].splitlines()[-1:], result[2]
    assert message in errors_of(result[2])[0]
    assert "Traceback" not in result[2]
    assert not (folder / "runs").exists()


MODEL, DATA = "model.init_args", "data.init_args"
LATIN, ONE_CLASS = ({"class_path": "Reviews", "init_args": {"file": f"{name}.csv"}} for name in ("latin", "one"))
UGLY = {"class_path": "TextFiles", "init_args": {"train_file": "train.csv", "test_file": "test.csv"}}
BAD_SETTINGS = [
    ("trainer.max_epochs", "three", 2, "trainer.max_epochs: got 'three', expected int, null"),
    (f"{DATA}.data_dir", "nowhere", 1, "nowhere/train.jsonl: no such file"),
    (f"{DATA}.label_column", "lable", 1, "no column 'lable'; did you mean 'label'?"),
    (f"{DATA}.label_names", ["good", "bad", "1"], 1, "unknown label 0"),
    (f"{DATA}.batch_size", 0, 2, "data.batch_size: got 0, needs 1 or more"),
    (f"{DATA}.max_length", 65, 2, "data.max_length: got 65, but bert has 64 positions"),
    ("data", LATIN, 1, "latin.csv, line 3: byte 0xe9 is not UTF-8"),
    ("data", ONE_CLASS, 1, "the training rows hold one class only (good)"),
    ("data", UGLY, 1, "test.csv, row 2: unknown label 'ugly'; known are bad, good"),
    (f"{MODEL}.adapter.init_args.target_modules", ["quary"], 1, "'quary' matches no module of BertForSequence"),
    (f"{MODEL}.adapter.init_args.r", -1, 1, "`r` should be a positive integer value but the value passed is -1"),
    (f"{MODEL}.backbone", {"name_or_path": "some/model"}, 1, "give a local folder: backbone.name_or_path"),
    (f"{MODEL}.backbone.config_overrides", {"hiden_size": 3}, 2, "'hiden_size' is no entry of BertConfig"),
    (f"{MODEL}.backbone.quantization", "nf4", 1, "needs bitsandbytes, which is not installed"),
    ("trainer.precision", "16-true", 2, "trainer.precision: got '16-true'; what trains stays in float32"),
    ("trainer.precision", "bf16-mixed", 2, "this cpu has no bfloat16; use 32-true"),
    ("trainer.accelerator", "gpu", 2, "trainer.accelerator: gpu asked for, but torch sees no CUDA device"),
    ("trainer.gradient_clip_algorithm", "nrm", 2, "trainer: `gradient_clip_algorithm` nrm is invalid"),
    ("trainer.val_check_interval", 3000, 2, "trainer: `val_check_interval` (3000) must be less than or equal"),
]


@pytest.mark.parametrize(("path", "value", "code", "message"), BAD_SETTINGS)
def test_a_bad_setting_is_one_line(
    peftlit, settings, write_config, tmp_path, monkeypatch, path, value, code, message
) -> None:
    def absent() -> None:
        raise BackboneError("backbone.quantization: needs bitsandbytes, which is not installed")

    monkeypatch.setattr("peftlit.backbone.backbone.require_bitsandbytes", absent)
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "latin.csv").write_bytes("text,label\nfine,good\ncafé,bad\n".encode("latin-1"))
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"text {i},good\n" for i in range(40)))
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"{i},{('good', 'bad')[i % 2]}\n" for i in range(40)))
    (tmp_path / "test.csv").write_text("text,label\nfine,good\ndull,ugly\n")
    change(settings, path, value)
    result = peftlit("fit", "--config", write_config(settings))
    contract_one_line_and_nothing_written(result, tmp_path, code, message)


def test_a_used_run_folder_is_refused_and_left_alone_and_a_new_one_has_nothing_to_continue(
    peftlit, settings, write_config, finished_run, tmp_path
) -> None:
    folder, _ = finished_run

    def times() -> dict[Path, int]:  # the lock is looked at, which some versions of filelock do by writing
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}

    before = times()
    fit = ("fit", "--config", write_config(settings), "--run_dir")
    contract_one_line_and_nothing_written(
        peftlit(*fit, folder), tmp_path, 1, "already holds a run; name another folder, or continue it"
    )
    assert times() == before
    lock = FileLock(folder / ".lock", timeout=0)
    lock.acquire()  # a refused run does not hold it
    lock.release()
    new = peftlit(*fit, "new", "--ckpt_path", "last")
    contract_one_line_and_nothing_written(new, tmp_path, 1, "holds no checkpoint to continue from")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_command_on_no_run_lists_the_near_ones(peftlit, tmp_path, command) -> None:
    (tmp_path / "runs_of_mine/001").mkdir(parents=True)
    code, _, err = peftlit(command, "--run_dir", "runs_of_mine/0O1", *["--text=good"] * (command == "predict"))
    assert code == 1
    assert errors_of(err) == ["peftlit: error: --run_dir runs_of_mine/0O1: no such folder; there are 001"]


def test_the_run_folder_is_complete(finished_run) -> None:
    folder, _ = finished_run
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "adapter", "checkpoints", "config.yaml", "confusion_matrix.png", "learning_curves.png", "metrics.csv",
        "metrics.json", "predictions.csv", "split_manifest.json",
    }  # fmt: skip
    metrics = read_json(folder / "metrics.json")
    assert metrics["step"] in (6, 12, 18)
    assert len(metrics["adapter_sha256"]) == 64
    assert metrics["validation"]["f1"] == max(
        entry["eval_f1"]
        for entry in read_json(folder / "adapter/trainer_state.json")["log_history"]
        if "eval_f1" in entry
    )
    assert metrics["fit"]["peak_memory_mib"] > 0
    assert metrics["fit"]["samples_per_second"] > 0
    check = read_json(folder / "adapter/reload_check.json")
    assert check == {
        "passed": True, "reason": None, "difference": metrics["reload_logit_difference"],
        "drift": metrics["reload_drift"],
    }  # fmt: skip
    for file in (folder / "adapter").iterdir():
        assert str(folder).encode() not in file.read_bytes(), file.name


def test_validate_and_test_score_the_exported_adapter(finished_run, peftlit) -> None:
    folder, _ = finished_run
    fitted = read_json(folder / "metrics.json")
    wanted = (folder / "predictions.csv").read_text()
    for command in ("validate", "test"):
        peftlit.ok(command, "--run_dir", folder)
    again = read_json(folder / "metrics.json")
    assert again["adapter_sha256"] == fitted["adapter_sha256"]
    assert again["test"].pop("confusion_matrix") == fitted["test"].pop("confusion_matrix")
    assert again["test"] == pytest.approx(fitted["test"], abs=1e-6)
    for name, value in fitted["validation"].items():
        assert again["validation"][name] == pytest.approx(value, abs=1e-6)
    assert (folder / "predictions.csv").read_text() == wanted


@pytest.mark.slow
def test_a_run_can_be_continued(peftlit, settings, write_config, tmp_path) -> None:
    settings["model"]["init_args"]["scheduler"] = None  # one that knows the end could not be continued
    path = write_config(settings)
    peftlit.ok("fit", "--config", path, "--run_dir", "run", "--trainer.max_epochs=1")
    peftlit.ok("fit", "--config", path, "--run_dir", "run", "--ckpt_path", "last")
    state = read_json(tmp_path / "run/adapter/trainer_state.json")
    assert state["global_step"] == 24
    assert [e["step"] for e in state["log_history"] if "eval_loss" in e] == [12, 24]
    assert (tmp_path / "run/metrics.csv").is_file()
    assert (tmp_path / "run/resumed_1/metrics.csv").is_file()


@pytest.mark.slow
def test_fresh_runs_are_numbered_and_log_to_tensorboard_by_config(peftlit, settings, write_config, tmp_path) -> None:
    (tmp_path / "runs/007").mkdir(parents=True)
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "boards"}}
    settings["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_test_batches": 1, "logger": logger}
    peftlit.ok("fit", "--config", write_config(settings))
    assert sorted(os.listdir(tmp_path / "runs")) == ["007", "008"]
    board = EventAccumulator(str(next((tmp_path / "boards").rglob("events.out.tfevents*")).parent)).Reload()
    assert {"val/loss", "test/loss"} <= set(board.Tags()["scalars"])
    assert not list((tmp_path / "runs").rglob("metrics.csv"))


@pytest.mark.slow
def test_a_split_of_which_nothing_is_scored_leaves_no_scores(peftlit, settings, write_config, tmp_path) -> None:
    settings["trainer"] |= {"max_epochs": 1, "limit_test_batches": 0, "log_every_n_steps": 0}
    peftlit.ok("fit", "--config", write_config(settings))
    before = read_json(tmp_path / "runs/001/metrics.json")
    assert (before["test"], before["validation"]["f1"] > 0) == (None, True)
    _, err = peftlit.ok("validate", "--run_dir", "runs/001", "--trainer.limit_val_batches=0")
    assert "validation: no batch was scored, and nothing is written" in err
    assert read_json(tmp_path / "runs/001/metrics.json") == before


@pytest.mark.slow
def test_no_validation_split_exports_the_last_weights(peftlit, settings, write_config, tmp_path, toy_data) -> None:
    shares = {"validation_share": 0.0, "test_share": 0.2, "max_length": 32}
    files = {"train_file": str(toy_data / "train.jsonl"), **shares}
    settings["data"] = {"class_path": "TextFiles", "init_args": files}
    settings["trainer"] |= {"max_epochs": 1, "callbacks": []}
    peftlit.ok("fit", "--config", write_config(settings))
    metrics = read_json(tmp_path / "runs/001/metrics.json")
    assert (metrics["validation"], metrics["step"]) == (None, 5)


def contract_out_of_memory(where: str, limit: str, settings: dict[str, object], folder: Path) -> None:
    """A batch that is too large for a real process under a limit costs one line, with the change that fits."""
    change(settings, f"{MODEL}.backbone.config_overrides", {"intermediate_size": 128})
    rows = (f"good film {i} {'bad ' * 60},{('good', 'bad')[i % 2]}\n" for i in range(30_000))
    (folder / "reviews.csv").write_text("text,label\n" + "".join(rows))
    large = {"file": "reviews.csv", "batch_size": 20_000, "max_length": 64, "group_by_length": False}
    change(settings, "data", {"class_path": "Reviews", "init_args": large})
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    limited = f"{limit}; import sys; from peftlit.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = run_in_process(folder, "fit", "--config", "config.yaml", code=limited)
    assert done.returncode == 1, done.stderr
    assert len(errors_of(done.stderr)) == 1, done.stderr
    line = errors_of(done.stderr)[0]
    assert f"out of {where} memory at batch shape 20000 x 64" in line
    assert "gradient_checkpointing: true" in line


def test_rows_that_were_read_are_given_back_to_the_system(peftlit, settings, write_config) -> None:
    write_config(settings)
    assert peftlit("fit", "--config", "config.yaml", "--print_config")[0] == 0
    assert pyarrow.default_memory_pool().backend_name == "system", "Arrow's own pool keeps what it once held"


@pytest.mark.slow
def test_host_memory_running_out_is_one_line_with_the_change_that_fits(settings, tmp_path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (9 << 30, 9 << 30))"
    contract_out_of_memory("host", limit, settings, tmp_path)


@pytest.mark.slow
def test_shell_completion_is_printed(tmp_path) -> None:
    done = run_in_process(tmp_path, "--print_completion", "shtab-bash")
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout
    assert "--trainer.max_epochs" in done.stdout
