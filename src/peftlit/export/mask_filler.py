"""Fill mask tokens with a trained masked language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from peftlit.batch import Batch
from peftlit.data.collate import tokenize
from peftlit.data.messages import Question
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor
from peftlit.modules.inference import in_evaluation
from peftlit.modules.metrics import plain

_SHOWN = 5
"""Tokens in an answer for each gap."""


class MaskFiller(Predictor):
    """Fills every mask token of a text.

    An answer is ``text`` with the likeliest token in each gap, and ``masks``: for each gap the likeliest tokens with
    their probabilities.
    """

    def answers(self, questions: Sequence[Question], rows: Sequence[int], batch_size: int) -> Iterable[dict[str, Any]]:
        """Fill the gaps of some texts.

        Raises:
            DataError: A question is no text with a gap, or its gap is truncated.
        """
        texts = [self._text(question, row) for question, row in zip(questions, rows, strict=True)]
        batch = self.batch(texts, rows)
        gaps = self._gaps(batch)
        for row, text, found in zip(rows, texts, gaps, strict=True):
            if int(found.sum()) < text.count(self.tokenizer.mask_token):
                raise DataError(
                    f"predict: row {row}: a gap comes after its first {self.tokenizer.model_max_length} tokens, "
                    "where texts are truncated; shorten it"
                )
        probabilities = in_evaluation(self.module, self._gap_logits, batch).softmax(-1).split(gaps.sum(1).tolist())
        return map(self._filled, texts, probabilities)

    def batch(self, questions: Sequence[Question], rows: Sequence[int]) -> Batch:
        """Tokenize texts."""
        return tokenize(self.tokenizer, [str(question) for question in questions])

    def _text(self, question: Question, row: int) -> str:
        if not isinstance(question, str) or self.tokenizer.mask_token not in question:
            raise DataError(f"predict: row {row} is {question!r}, needs a text with {self.tokenizer.mask_token} in it")
        return question

    def _gap_logits(self, batch: Batch) -> Tensor:
        """Return the logits (N, V) of the gaps alone: those of all tokens would take gigabytes."""
        head = self.module.language_head
        hidden = head.hidden_states(self.module.model_inputs(batch))
        return head.logits(hidden[self._gaps(batch)])

    def _gaps(self, batch: Batch) -> Tensor:
        return torch.eq(batch["input_ids"], self.tokenizer.mask_token_id)

    def _filled(self, text: str, probabilities: Tensor) -> dict[str, Any]:
        values, tokens = probabilities.topk(min(_SHOWN, probabilities.shape[-1]))
        before, *parts = text.split(self.tokenizer.mask_token)
        masks = []
        for gap_values, gap_tokens, part in zip(values.tolist(), tokens.tolist(), parts, strict=True):
            words = [str(self.tokenizer.decode([token])).strip() for token in gap_tokens]
            masks.append(
                [{"token": word, "probability": plain(value)} for word, value in zip(words, gap_values, strict=True)]
            )
            before += words[0] + part
        return {"text": before, "masks": masks}
