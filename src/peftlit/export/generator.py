"""A trained causal language model, ready to continue prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.chat import Renderer
from peftlit.data.messages import Message
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor, Question
from peftlit.modules import CausalLM


class Generator(Predictor):
    """Continues prompts by the likeliest tokens, or by chance.

    An answer is ``text``, and ``finished``: whether it came to an end by itself. A text is put to the model as it was
    trained: as it is, or, where it learned conversations, as a user's message.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
        chat: Whether it learned conversations.

    Attributes:
        max_new_tokens: Tokens of an answer at most.
        temperature: How much is left to chance; 0 = always the likeliest token.
    """

    def __init__(self, module: CausalLM, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
        super().__init__(module, tokenizer)
        self.chat = chat
        self.max_new_tokens = 256
        self.temperature = 0.0
        self._renderer = Renderer(tokenizer)

    def answers(self, questions: Sequence[Question], batch_size: int, first_row: int) -> Iterable[dict[str, Any]]:
        """Continue some prompts.

        Args:
            questions: Texts, or conversations.
            batch_size: Prompts per batch.
            first_row: The first one's number.

        Raises:
            DataError: A prompt is none, or leaves no room in the model's window.
        """
        prompts = self._prompts(questions, first_row)
        # a long prompt leaves little room, and must not take others' away; nor may padding stand behind virtual tokens
        apart = self.module.method.virtual_tokens_in_row
        kinds = [(self._room(prompt), len(prompt) if apart else 0) for prompt in prompts]
        answers: dict[int, dict[str, Any]] = {}
        for kind in dict.fromkeys(kinds):
            rows = [i for i, own in enumerate(kinds) if own == kind]
            answers |= zip(rows, self._continue([prompts[i] for i in rows], kind[0]), strict=True)
        return [answers[i] for i in range(len(prompts))]

    def batch(self, questions: Sequence[Question], first_row: int) -> Batch:
        """Put prompts to the model, padded on the left: what is said next follows the last token.

        Args:
            questions: Texts, or conversations.
            first_row: The first one's number.

        Raises:
            DataError: A prompt is none, or leaves no room in the model's window.
        """
        return self._padded(self._prompts(questions, first_row))

    def _prompts(self, questions: Sequence[Question], first_row: int) -> list[list[int]]:
        rows = list(range(first_row, first_row + len(questions)))
        put = [self._put(question, row) for row, question in zip(rows, questions, strict=True)]
        prompts = self._renderer.encode_prompts(put, "predict", rows)
        for row, prompt in zip(rows, prompts, strict=True):
            if self._room(prompt) < 1:
                raise DataError(
                    f"predict, row {row}: the prompt has {len(prompt)} tokens and leaves no room in the model's window "
                    f"of {self._window}; shorten it"
                )
        return prompts

    def _padded(self, prompts: list[list[int]]) -> Batch:
        batch: Batch = dict(  # type: ignore[assignment]
            self.tokenizer.pad(
                {"input_ids": prompts}, return_tensors="pt", padding_side="left", return_attention_mask=True
            )
        )
        return batch

    @property
    def _window(self) -> int | None:
        model: Any = self.module.model
        window: int | None = getattr(model.config, "max_position_embeddings", None)
        return window

    def _room(self, prompt: list[int]) -> int:
        """Return how many tokens an answer may have; padding takes no positions, virtual tokens do."""
        if self._window is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self._window - self.module.method.virtual_tokens - len(prompt))

    def _put(self, question: Question, row: int) -> str | list[Message]:
        if isinstance(question, str):
            return [{"role": "user", "content": question}] if self.chat else question
        if not isinstance(question, list):
            raise DataError(f"predict: row {row} is {question!r}, needs a text or a conversation")
        return question

    @torch.inference_mode()
    def _continue(self, prompts: list[list[int]], room: int) -> list[dict[str, Any]]:
        model: Any = self.module.model
        batch = self._padded(prompts)
        length = batch["input_ids"].shape[1]
        chance = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        device, ends = next(model.parameters()).device, self._ends()
        generated = model.generate(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            max_new_tokens=room,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=ends.tolist() or None,
            **chance,
        )[:, length:]
        return [
            {
                "text": self.tokenizer.decode(answer, skip_special_tokens=True),
                "finished": bool(torch.isin(answer, ends.to(answer.device)).any()),
            }
            for answer in generated
        ]

    def _ends(self) -> torch.Tensor:
        """Return the tokens that end an answer."""
        model: Any = self.module.model
        ends = getattr(model.generation_config, "eos_token_id", None)
        known = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return torch.tensor(sorted({*known, self.tokenizer.eos_token_id} - {None}))
