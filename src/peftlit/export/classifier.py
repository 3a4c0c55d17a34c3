"""Answer texts with a trained classifier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.checks import check_text
from peftlit.data.collate import tokenize
from peftlit.data.label_prompts import LabelPrompts
from peftlit.data.messages import Question
from peftlit.data.prompt import Text
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor
from peftlit.modules import PeftModule


class Classifier(Predictor):
    """Labels texts or pairs of texts.

    An answer is ``label`` and ``probabilities``; for several labels per row ``labels`` and ``probabilities``; for
    regression ``value``.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
        prompts: Renders texts for a causal language model; None with other models.
    """

    chunk_batches: ClassVar[int] = 32
    """Texts are sorted by length within so many batches, to pad less."""

    def __init__(
        self, module: PeftModule, tokenizer: PreTrainedTokenizerBase, prompts: LabelPrompts | None = None
    ) -> None:
        super().__init__(module, tokenizer)
        assert module.problem is not None
        self.problem = module.problem
        self.prompts = prompts

    @property
    def label_names(self) -> list[str]:
        """The classes' names in the order of their ids."""
        return self.problem.label_names

    def answers(self, questions: Sequence[Question], rows: Sequence[int], batch_size: int) -> Iterable[dict[str, Any]]:
        """Answer the longest texts first, and put the answers back in order."""
        texts = [_text(question, row) for question, row in zip(questions, rows, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: -len("".join(texts[i])))
        parts = []
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            batch = self.batch([texts[i] for i in part], [rows[i] for i in part])
            parts.append(self.problem.answers(self.logits(batch)))
        return map(self.problem.say, torch.cat(parts)[torch.tensor(order).argsort()])

    def texts(self, questions: Sequence[Question]) -> list[Text]:
        """Return texts as the model reads them, with their prompt."""
        return super().texts(questions) if self.prompts is None else self._as_read(questions)

    def batch(self, questions: Sequence[Question], rows: Sequence[int]) -> Batch:
        """Tokenize texts, by the prompt the model was trained with where there is one."""
        texts: list[Any] = list(questions)
        if self.prompts is None:
            return tokenize(self.tokenizer, texts)
        return self.prompts.batch(texts, rows)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, outputs) of a batch, in float32, on the CPU."""
        return self.module.evaluate_batch(batch)


def _text(question: object, row: int) -> Text:
    parts = question if isinstance(question, tuple) and len(question) == 2 else (question,)
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"predict: row {row} is {question!r}, needs a text or a pair of texts")
    for part in parts:
        check_text(part, "text", "predict", row)
    return question  # type: ignore[return-value]  # found to be one
