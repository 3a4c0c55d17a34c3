from __future__ import annotations

import os
from pathlib import Path

from peftlit.files import write_text


def test_nothing_is_written_through_a_link_that_lies_in_wait(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f".metrics.json.{os.getpid()}").symlink_to(victim)
    write_text(tmp_path / "metrics.json", "new")
    assert victim.read_text() == "kept"
    assert (tmp_path / "metrics.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "victim"]
