"""A trained masked language model, ready to fill gaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from peftlit.batch import Batch
from peftlit.data.collate import tokenize
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor, Question
from peftlit.modules.inference import in_evaluation
from peftlit.modules.metrics import plain

_SHOWN = 5
"""Likeliest tokens that are told of each gap."""


class MaskFiller(Predictor):
    """Fills every mask token of a text.

    An answer is ``text`` with the likeliest token in each gap, and ``masks``: for each gap the likeliest tokens with
    their probabilities.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
    """

    def answers(self, questions: Sequence[Question], batch_size: int, first_row: int) -> Iterable[dict[str, Any]]:
        """Fill the gaps of some texts.

        Args:
            questions: Texts with the tokenizer's mask token in them.
            batch_size: Texts per batch.
            first_row: The first one's number.

        Raises:
            DataError: A text has no gap, or one where texts are cut, or something in its place is none.
        """
        texts = [self._text(question, row) for row, question in enumerate(questions, first_row)]
        batch = self.batch(questions, first_row)
        gaps = self._gaps(batch)
        for row, (text, found) in enumerate(zip(texts, gaps, strict=True), first_row):
            if int(found.sum()) < text.count(self.tokenizer.mask_token):
                raise DataError(
                    f"predict: row {row}: a gap stands behind its first {self.tokenizer.model_max_length} tokens, "
                    "where texts are cut; shorten it"
                )
        probabilities = in_evaluation(self.module, self._gap_logits, batch).softmax(-1).split(gaps.sum(1).tolist())
        return [self._filled(*one) for one in zip(texts, probabilities, strict=True)]

    def batch(self, questions: Sequence[Question], first_row: int) -> Batch:
        """Tokenize texts.

        Args:
            questions: Texts.
            first_row: The first one's number.
        """
        return tokenize(self.tokenizer, [str(question) for question in questions])

    def _text(self, question: Question, row: int) -> str:
        if not isinstance(question, str) or self.tokenizer.mask_token not in question:
            raise DataError(f"predict: row {row} is {question!r}, needs a text with {self.tokenizer.mask_token} in it")
        return question

    def _gap_logits(self, batch: Batch) -> Tensor:
        """Return the logits (N, V) of the gaps alone: those of whole texts would take gigabytes."""
        head = self.module.language_head
        hidden = head.hidden_states(self.module.model_inputs(batch))
        return head.logits(hidden[self._gaps(batch)])

    def _gaps(self, batch: Batch) -> Tensor:
        gaps: Tensor = batch["input_ids"] == self.tokenizer.mask_token_id
        return gaps

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
