"""A trained classifier, ready to answer texts: in batches, in input order, with flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.collate import tokenize
from peftlit.errors import DataError
from peftlit.modules import SequenceClassification

Text = str | tuple[str, str]
"""A text, or the two texts of a pair."""

_CHUNK_BATCHES = 32
"""Texts are sorted by length within chunks of so many batches, so that there is less to pad."""


class Classifier:
    """Answers texts. :func:`peftlit.load` makes one.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
    """

    def __init__(self, module: SequenceClassification, tokenizer: PreTrainedTokenizerBase) -> None:
        self.module = module
        self.tokenizer = tokenizer

    @property
    def label_names(self) -> list[str]:
        """The classes' names in the order of their ids."""
        return self.module.problem.label_names

    def predict(self, texts: Iterable[Text], batch_size: int = 32) -> list[dict[str, Any]]:
        """Answer texts.

        Args:
            texts: Texts, or pairs of texts.
            batch_size: Texts per batch.

        Returns:
            One answer per text, in order: ``label`` and ``probabilities``; for several labels per row ``labels`` and
            ``probabilities``; for regression ``value``.

        Raises:
            DataError: Something in the texts' place is none.
        """
        return list(self.stream(texts, batch_size))

    def stream(self, texts: Iterable[Text], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Answer texts one after the other as :meth:`predict` does, without holding more than a few batches.

        Args:
            texts: Texts, or pairs of texts.
            batch_size: Texts per batch.
        """
        if isinstance(texts, str):
            raise DataError("predict: got one text, needs a list of texts; put it in brackets: [text]")
        if batch_size < 1:
            raise DataError(f"predict: batch_size is {batch_size}, needs 1 or more")
        rest = iter(texts)
        row = 0
        while chunk := list(islice(rest, _CHUNK_BATCHES * batch_size)):
            for number, text in enumerate(chunk, row + 1):
                _check(text, number)
            yield from map(self.module.problem.say, self._answers(chunk, batch_size))
            row += len(chunk)

    def _answers(self, texts: list[Text], batch_size: int) -> Tensor:
        """Answer some texts, the longest first, and put the answers back in order."""
        order = sorted(range(len(texts)), key=lambda i: -len("".join(texts[i])))
        parts = []
        for start in range(0, len(order), batch_size):
            batch = tokenize(self.tokenizer, [texts[i] for i in order[start : start + batch_size]])
            parts.append(self.module.problem.answers(self.logits(batch)))
        answers = torch.cat(parts)
        return answers[torch.tensor(order).argsort()]

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, outputs) of a batch, in float32, on the CPU.

        Args:
            batch: A padded batch.
        """
        return self.module.evaluate_batch(batch)


def _check(text: object, row: int) -> None:
    parts = text if isinstance(text, tuple) and len(text) == 2 else (text,)
    if not all(isinstance(part, str) for part in parts):
        raise DataError(f"predict: row {row} is {text!r}, needs a text or a pair of texts")
