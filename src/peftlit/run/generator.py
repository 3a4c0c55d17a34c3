"""A trained causal language model, ready to continue prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from peftlit.data.chat import Renderer
from peftlit.data.messages import Message
from peftlit.errors import ConfigError, DataError
from peftlit.modules import CausalLM
from peftlit.run.answerer import Answerer, Question


class Generator(Answerer):
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
        rows = list(range(first_row, first_row + len(questions)))
        prompts = [self._put(question, row) for row, question in zip(rows, questions, strict=True)]
        return self._continue(prompts, rows)

    def _put(self, question: Question, row: int) -> str | list[Message]:
        if isinstance(question, str):
            return [{"role": "user", "content": question}] if self.chat else question
        if not isinstance(question, list):
            raise DataError(f"predict: row {row} is {question!r}, needs a text or a conversation")
        return question

    @torch.inference_mode()
    def _continue(self, prompts: list[str | list[Message]], rows: list[int]) -> list[dict[str, Any]]:
        model: Any = self.module.model
        ids = self._renderer.encode_prompts(prompts, "predict", rows)
        window = getattr(model.config, "max_position_embeddings", None)
        for row, one in zip(rows, ids, strict=True):
            if window is not None and len(one) >= window:
                raise DataError(f"predict, row {row}: the prompt has {len(one)} tokens, the model's window {window}")
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left")
        length = batch["input_ids"].shape[1]
        room = self.max_new_tokens if window is None else min(self.max_new_tokens, window - length)
        if room < 1:
            raise ConfigError("predict: prompts of this length leave no room in the model's window; lower batch_size")
        chance = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        device = next(model.parameters()).device
        generated = model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            max_new_tokens=room,
            pad_token_id=self.tokenizer.pad_token_id,
            **chance,
        )[:, length:]
        ends = self._ends()
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
