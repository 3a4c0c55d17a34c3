"""Whatever goes wrong in the reload check is recorded and costs nothing else."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import peftlit
from peftlit.errors import ReloadError
from peftlit.export import reload_check as reload
from peftlit.export.reload_check import check_reload
from peftlit.export.write import export
from tests.modules.cases import Case, make_module, tokenizer

CPU = torch.device("cpu")
FAILURES = {
    "an answer": (ReloadError("its logits differ by 2"), "its logits differ by 2", 1),
    "device memory": (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "out of memory (CUDA out of memory", 1),
    "host memory": (MemoryError(), "out of memory (MemoryError)", 1),
    "the disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x/texts.json"), "No space left on device", 1),
    "anything": (LookupError("no such layer"), "LookupError: no such layer", 1),
    "Ctrl-C": (KeyboardInterrupt(), "stopped by Ctrl-C", 130),
    "SIGTERM": (signal.SIGTERM, "stopped by SIGTERM", 143),
}


def fail(error: BaseException | signal.Signals) -> None:
    if isinstance(error, signal.Signals):
        os.kill(os.getpid(), error)
        pytest.fail("the signal was not heard")
    raise error


def record_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "reload_check.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_recorded_and_said_in_one_line(name, tmp_path, monkeypatch) -> None:
    error, why, code = FAILURES[name]
    monkeypatch.setattr(reload, "compare_answers", lambda *_: fail(error))
    with pytest.raises(ReloadError) as failed:
        check_reload(torch.nn.Linear(1, 1), None, [], tmp_path, CPU)
    line, record = str(failed.value), record_of(tmp_path)
    assert why in line
    assert "the export and all scores are complete" in line
    assert "\n" not in line
    assert (failed.value.exit_code, record["passed"]) == (code, False)
    assert why in str(record["reason"])
    assert "/tmp" not in str(record["reason"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_cannot_be_recorded_is_said_too(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reload, "compare_answers", lambda *_: fail(LookupError("no such layer")))
    (tmp_path / "file").touch()
    with pytest.raises(ReloadError, match=r"no such layer; nor can that be recorded: .*complete"):
        check_reload(torch.nn.Linear(1, 1), None, [], tmp_path / "file/adapter", CPU)


@pytest.fixture
def exported(model_folder, tmp_path):
    """A module and its export, unchecked."""
    base = model_folder("bert")
    module = make_module(Case("bert", "lora"), base)
    module.configure_model()
    export(module, tokenizer(base), tmp_path / "adapter", {})
    return module, tokenizer(base), tmp_path / "adapter"


def test_the_trained_model_makes_room_before_the_fresh_process_starts(exported, monkeypatch) -> None:
    module, own, folder = exported
    seen: list[str] = []
    monkeypatch.setattr(module, "evaluate_batch", lambda batch: seen.append("answered") or torch.zeros(2, 2))
    monkeypatch.setattr(module, "cpu", lambda: seen.append("moved"))
    monkeypatch.setattr(reload, "run_in_fresh_process", lambda *_: fail(ReloadError("started")))
    with pytest.raises(ReloadError, match="started"):
        check_reload(module, own, ["good", "bad"], folder, CPU)
    assert seen[0] == "answered"
    assert seen.index("moved") == len(seen) - 1


def test_an_export_says_how_its_check_ended(exported, monkeypatch, caplog) -> None:
    module, own, folder = exported
    drift = reload.Drift(compared=8, changed=0.125, kl=0.5, largest=0.25)
    monkeypatch.setattr(reload, "compare_answers", lambda *_: reload.Reload(2.0**-20, drift))
    with caplog.at_level(logging.WARNING, "peftlit"):
        assert record_of(folder) == {
            "passed": False, "reason": "it never finished", "difference": None, "drift": None
        }  # fmt: skip
        peftlit.load(folder, device="cpu")
        assert caplog.messages == [f"{folder}: its reload check did not pass: it never finished"]
        caplog.clear()
        check_reload(module, own, [], folder, CPU)
        assert record_of(folder) == {
            "passed": True, "reason": None, "difference": 2.0**-20, "drift": asdict(drift)
        }  # fmt: skip
        peftlit.load(folder, device="cpu")
        (folder / "reload_check.json").unlink()  # as earlier versions exported
        peftlit.load(folder, device="cpu")
        assert caplog.messages == []
