"""The base of all predictors: questions in, answers out, in batches, in input order, with flat memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.cleaning import Cleaner
from peftlit.data.messages import Question
from peftlit.data.prompt import Text
from peftlit.errors import DataError
from peftlit.modules import PeftModule


class Predictor(ABC):
    """Answers questions; :func:`peftlit.load` makes one for the model's task.

    Questions are given as they were written and cleaned here as the training rows were.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
    """

    chunk_batches: ClassVar[int] = 1
    """Batches that are held at a time."""

    def __init__(self, module: PeftModule, tokenizer: PreTrainedTokenizerBase) -> None:
        self.module = module
        self.tokenizer = tokenizer
        self.cleaner = Cleaner(module.data.cleaning_steps or [])

    def predict(self, questions: Iterable[Question], batch_size: int = 32) -> list[dict[str, Any]]:
        """Answer questions.

        Args:
            questions: Texts, pairs of texts, or conversations, as the task takes them.
            batch_size: Questions per batch.

        Returns:
            One answer per question, in order, as JSON.

        Raises:
            DataError: A question is not what the task takes.
        """
        return list(self.stream(questions, batch_size))

    def stream(self, questions: Iterable[Question], batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Answer as :meth:`predict` does, one question after the other, holding only a few batches."""
        if isinstance(questions, str):
            raise DataError("predict: got one text, needs a list of texts; put it in brackets: [text]")
        if batch_size < 1:
            raise DataError(f"predict: batch_size is {batch_size}, needs 1 or more")
        rest, row = iter(questions), 1
        while chunk := list(islice(rest, self.chunk_batches * batch_size)):
            yield from self.answers(self.cleaner.clean_all(chunk), range(row, row + len(chunk)), batch_size)
            row += len(chunk)

    def probe(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Return what the model is fed for some questions in one batch, and its ``logits``."""
        batch = self.batch(self.cleaner.clean_all(list(questions)), range(1, len(questions) + 1))
        tensors: dict[str, Any] = dict(batch)
        return {**tensors, "logits": self.module.evaluate_batch(batch)}

    def texts(self, questions: Sequence[Question]) -> list[Text]:
        """Return what the tokenizer is given for some questions: texts, or pairs, cleaned and with their prompt."""
        texts: list[Any] = self.cleaner.clean_all(list(questions))
        return texts

    def _as_read(self, questions: Sequence[Question]) -> list[Text]:
        """Return the tokens that the model reads for some questions, as text."""
        batch = self.batch(self.cleaner.clean_all(list(questions)), range(1, len(questions) + 1))
        rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        return [str(self.tokenizer.decode(ids[real])) for ids, real in rows]

    @abstractmethod
    def batch(self, questions: Sequence[Question], rows: Sequence[int]) -> Batch:
        """Turn cleaned questions into one padded batch; ``rows`` are their numbers."""

    @abstractmethod
    def answers(self, questions: Sequence[Question], rows: Sequence[int], batch_size: int) -> Iterable[dict[str, Any]]:
        """Answer cleaned questions, ``chunk_batches`` batches of them at most; ``rows`` are their numbers."""
