"""How a fresh process ended is said in one line."""

from __future__ import annotations

import pytest

from peftlit.errors import ReloadError
from peftlit.export import fresh_process

PROCESSES = {
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"out of memory .* \(ended by SIGKILL\)"),
    "crashed": ("import os; os.abort()", "cannot load what was exported: ended by SIGABRT"),
    "host memory": ("raise MemoryError", r"out of memory .* \(MemoryError\)"),
    "device memory": (
        "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory.')",
        r"out of memory .* \(OutOfMemoryError: CUDA out of memory",
    ),
    "an error": ("raise KeyError('bert')", "cannot load what was exported: KeyError: 'bert'"),
    "no end": ("import threading; threading.Event().wait()", "did not answer within 1 seconds"),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_how_the_fresh_process_ended_is_said(name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fresh_process, "_TIMEOUT_S", 1.0 if name == "no end" else 60.0)
    script, why = PROCESSES[name]
    with pytest.raises(ReloadError, match=why):
        fresh_process.run_in_fresh_process(script, [], tmp_path)
