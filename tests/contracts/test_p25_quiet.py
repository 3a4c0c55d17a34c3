"""P25: no warning on a clean run that is not meant for the user; a run without a terminal logs plain lines."""

from __future__ import annotations

import logging
import subprocess

import huggingface_hub
import pytest
import yaml

from peftlit.cli import console
from tests.conftest import run_in_process

NOISE = ("warning", "warn(", "deprecated", "tip:", "failed to", "traceback", "it/s]", "examples/s]", "\x1b[", "\r")
OURS = ("peftlit: ",)


def contract_every_line_is_meant_for_the_user(stdout: str, stderr: str) -> None:
    for text in (stdout, stderr):
        for mark in NOISE:
            assert mark not in text.lower(), mark
    assert all(line.startswith(OURS) for line in stderr.splitlines()), stderr
    assert all(line.startswith("epoch ") for line in stdout.splitlines()), stdout


@pytest.fixture(scope="module", params=["forked", pytest.param("fresh", marks=pytest.mark.slow)])
def done(request, tmp_path_factory, finished_settings) -> subprocess.CompletedProcess[str]:
    """A finished run; what libraries say when they are imported is said in a fresh process alone."""
    if request.param == "forked":
        return request.getfixturevalue("finished_run")[1]
    folder = tmp_path_factory.mktemp("quiet")
    (folder / "config.yaml").write_text(yaml.safe_dump(finished_settings), encoding="utf-8")
    done = run_in_process(folder, "fit", "--config=config.yaml", fresh=True)
    assert done.returncode == 0, done.stderr
    return done


def test_p25_a_clean_run_says_only_what_is_meant_for_the_user(done) -> None:
    contract_every_line_is_meant_for_the_user(done.stdout, done.stderr)


def test_p25_the_lines_say_loss_rate_and_speed(done) -> None:
    lines = done.stdout.splitlines()
    assert all(part in lines[0] for part in ("epoch 1", "batch ", "step ", "loss ", "lr ", "samples/s "))
    assert any("val/f1" in line for line in lines)
    for part in ("precision: ", "trainable ", "best val/f1 ", "answers the same", "test (30 rows): ", "run folder: "):
        assert part in done.stderr


def test_p25_breaker_a_library_warning_fails_the_contract(done) -> None:
    noisy = done.stderr + "UserWarning: `loftq_config` specified but will be ignored\n"
    with pytest.raises(AssertionError):
        contract_every_line_is_meant_for_the_user(done.stdout, noisy)


@pytest.mark.parametrize("name", ["profilers.simple", "callbacks.early_stopping"])
def test_p25_what_is_asked_for_is_said(name) -> None:
    console.quiet_libraries()
    asked, rest = (logging.getLogger(f"lightning.pytorch.{part}") for part in (name, "utilities.rank_zero"))
    assert (asked.isEnabledFor(logging.INFO), rest.isEnabledFor(logging.INFO)) == (True, False)


def test_p25_the_hubs_retries_are_not_said() -> None:
    huggingface_hub.logging.set_verbosity_warning()  # as when it is imported, after the console was set up
    console.quiet_libraries()
    assert not logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING)
