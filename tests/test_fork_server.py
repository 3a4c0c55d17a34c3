"""What runs in a fork of a server ends, sees and says what it would in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from tests import fork_server


def python(code: str, *arguments: str, **options):
    return fork_server.run([sys.executable, "-c", code, *arguments], **options)


def test_it_is_like_a_process_of_its_own(tmp_path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['A']); sys.exit('err')"
    done = python(code, "one", "two", cwd=tmp_path, env={**os.environ, "A": "b"})
    assert (done.returncode, done.stdout, done.stderr) == (1, f"['one', 'two'] {tmp_path} b\n", "err\n")
    done = python("raise KeyError('bert')")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "KeyError: 'bert'")
    assert python("import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


def test_a_plain_one_has_seen_transformers_and_nothing_of_peftlit() -> None:
    names = ["transformers", "peft", "peftlit", "lightning"]
    done = python("import sys; print(*(name in sys.modules for name in sys.argv[1:]))", *names)
    assert done.stdout == "True True False False\n"


def test_one_that_does_not_end_is_given_up(tmp_path) -> None:
    python("pass")  # a server that has started
    code = "import os, sys, threading; open(sys.argv[1], 'w').write(str(os.getpid())); threading.Event().wait()"
    with pytest.raises(subprocess.TimeoutExpired):
        python(code, str(tmp_path / "id"), timeout=2.0)
    process = int((tmp_path / "id").read_text())
    with suppress(ProcessLookupError):
        while True:  # until it is there no more
            os.kill(process, 0)
