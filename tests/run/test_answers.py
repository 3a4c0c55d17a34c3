"""Answers before training belong to the run: a resumed one keeps them, unless other prompts are asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from peftlit.errors import ConfigError
from peftlit.modules import CausalLM
from peftlit.run.answers import Answers
from tests.data.language_data import chat_files, turns


def test_a_resumed_run_keeps_the_answers_from_before_its_first_step(tmp_path, monkeypatch) -> None:
    rows = [{"messages": turns(f"question {i}", f"answer {i}")} for i in range(3)]
    trainer = SimpleNamespace(datamodule=chat_files(tmp_path, rows), is_global_zero=True)
    said = iter(["untrained", "trained", "asked anew"])
    monkeypatch.setattr(Answers, "_ask", lambda self, module, data: [next(said)] * len(data.ask(self.rows)))
    module = object.__new__(CausalLM)
    first, resumed, longer = Answers(rows=2), Answers(rows=2), Answers(rows=3)
    first.on_fit_start(trainer, module)
    for callback in (resumed, longer):
        callback.load_state_dict(first.state_dict())
        callback.on_fit_start(trainer, module)
    assert resumed.state_dict() == {"before": ["untrained"] * 2}
    assert longer.state_dict() == {"before": ["trained"] * 3}


def test_other_tasks_and_data_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="Answers needs CausalLM and ChatFiles"):
        Answers().on_fit_start(SimpleNamespace(datamodule=None, is_global_zero=True), object.__new__(CausalLM))
