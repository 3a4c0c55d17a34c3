"""``answers.csv``: what a chat model answers before and after training, side by side."""

from __future__ import annotations

import csv
import io
import logging
from typing import Any

from lightning import Callback, LightningModule, Trainer

from peftlit.data import TokenDataModule
from peftlit.data.datasets.chat_files import ChatFiles
from peftlit.errors import ConfigError
from peftlit.export.generator import Generator
from peftlit.files import write_text
from peftlit.modules import CausalLM, PeftModule
from peftlit.run.folder import RunFolder

log = logging.getLogger(__name__)

_SHOWN = 3
"""Rows that are shown in the log."""


class Answers(Callback):
    """Ask the model some prompts of the test split, else of the validation split, before and after training.

    Answers are greedy. They are written to ``answers.csv``, and the share that equals the expected one to
    ``metrics.json``. A run that is resumed keeps the answers from before its first step.

    Args:
        rows: Prompts to ask.
        max_new_tokens: Tokens of an answer at most.
    """

    def __init__(self, rows: int = 50, max_new_tokens: int = 64) -> None:
        self.rows, self.max_new_tokens = rows, max_new_tokens
        self._before: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the model as it is, unless the run is a resumed one."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, CausalLM) or not isinstance(data, ChatFiles):
            raise ConfigError("trainer.callbacks: Answers needs CausalLM and ChatFiles; leave it out")
        if trainer.is_global_zero and len(self._before) != len(data.ask(self.rows)):
            self._before = self._ask(pl_module, data)

    def state_dict(self) -> dict[str, Any]:
        """Return the answers from before training."""
        return {"before": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self._before = list(state_dict["before"])

    def finish(self, module: PeftModule, data: TokenDataModule, folder: RunFolder) -> None:
        """Ask the trained model, write both answers, and show some of them."""
        assert isinstance(module, CausalLM)
        assert isinstance(data, ChatFiles)  # as found at the start
        asked, after = data.ask(self.rows), self._ask(module, data)
        rows = [(_said(q), right, *said) for (q, right), *said in zip(asked, self._before, after, strict=True)]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("prompt", "expected", "before", "after"), *rows])
        write_text(folder.path / "answers.csv", text.getvalue())
        before, now = (sum(row[i].strip() == row[1].strip() for row in rows) / len(rows) for i in (2, 3))
        folder.update_metrics({"answers": {"rows": len(rows), "exact_match_before": before, "exact_match": now}})
        for row in rows[:_SHOWN]:
            log.info("prompt:   %r\n  expected: %r\n  before:   %r\n  after:    %r", *row)
        log.info("answers equal to the expected one: %.2f before training, %.2f after, of %d", before, now, len(rows))

    def _ask(self, module: CausalLM, data: ChatFiles) -> list[str]:
        training = module.training
        generator = Generator(module.eval(), data.get_tokenizer(), chat=bool(data.prompt_record["chat"]))
        generator.max_new_tokens = self.max_new_tokens
        answers = generator.predict([question for question, _ in data.ask(self.rows)])
        module.train(training)
        return [answer["text"] for answer in answers]


def _said(question: Any) -> str:
    return question if isinstance(question, str) else str(question[-1]["content"])
