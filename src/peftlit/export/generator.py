"""Continue prompts with a trained causal language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.chat import Renderer
from peftlit.data.messages import Message, Question
from peftlit.data.prompt import Text
from peftlit.errors import DataError
from peftlit.export.predictor import Predictor
from peftlit.modules import CausalLM


class Generator(Predictor):
    """Continues prompts, greedily or by sampling.

    An answer is ``text``, and ``finished``: whether the model ended it by itself. A model that was trained on
    conversations gets a text as a user's message.

    Args:
        module: The trained module, in evaluation mode, on its device.
        tokenizer: The tokenizer it was trained with.
        chat: Whether it was trained on conversations.

    Attributes:
        max_new_tokens: Tokens of an answer at most.
        temperature: Sampling temperature; 0 = always the likeliest token.
    """

    def __init__(self, module: CausalLM, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
        super().__init__(module, tokenizer)
        self.chat = chat
        self.max_new_tokens = 256
        self.temperature = 0.0
        self._renderer = Renderer(tokenizer)

    def answers(self, questions: Sequence[Question], rows: Sequence[int], batch_size: int) -> Iterable[dict[str, Any]]:
        """Continue prompts, batched by how many tokens their answers may have.

        Raises:
            DataError: A question is no prompt, or leaves no room in the model's window.
        """
        prompts = self._prompts(questions, rows)
        # a long prompt must not shorten other answers; nor may padding come between virtual tokens and a prompt
        same_length = self.module.method.virtual_tokens_in_row
        kinds = [(self._room(prompt), len(prompt) if same_length else 0) for prompt in prompts]
        answers: dict[int, dict[str, Any]] = {}
        for kind in dict.fromkeys(kinds):
            group = [i for i, own in enumerate(kinds) if own == kind]
            answers |= zip(group, self._continue([prompts[i] for i in group], kind[0]), strict=True)
        return [answers[i] for i in range(len(prompts))]

    def texts(self, questions: Sequence[Question]) -> list[Text]:
        """Return prompts as the model reads them, as the chat template renders a conversation."""
        return self._as_read(questions) if self.chat else super().texts(questions)

    def batch(self, questions: Sequence[Question], rows: Sequence[int]) -> Batch:
        """Tokenize prompts and pad them on the left: the answer follows the last token.

        Raises:
            DataError: A question is no prompt, or leaves no room in the model's window.
        """
        return cast(Batch, dict(self._padded(self._prompts(questions, rows))))

    def _prompts(self, questions: Sequence[Question], rows: Sequence[int]) -> list[list[int]]:
        asked = [self._message(question, row) for row, question in zip(rows, questions, strict=True)]
        prompts = self._renderer.encode_prompts(asked, "predict", list(rows))
        for row, prompt in zip(rows, prompts, strict=True):
            if self._room(prompt) < 1:
                raise DataError(
                    f"predict, row {row}: the prompt has {len(prompt)} tokens and leaves no room in the model's window "
                    f"of {self._window}; shorten it"
                )
        return prompts

    def _padded(self, prompts: list[list[int]]) -> Any:
        options: Any = {"return_tensors": "pt", "padding_side": "left", "return_attention_mask": True}
        return self.tokenizer.pad({"input_ids": prompts}, **options)

    @property
    def _window(self) -> int | None:
        model: Any = self.module.model
        window: int | None = getattr(model.config, "max_position_embeddings", None)
        return window

    def _room(self, prompt: list[int]) -> int:
        """Return how many tokens an answer may have: virtual tokens take positions, padding does not."""
        if self._window is None:
            return self.max_new_tokens
        return min(self.max_new_tokens, self._window - self.module.method.virtual_tokens - len(prompt))

    def _message(self, question: Question, row: int) -> str | list[Message]:
        if isinstance(question, str):
            return [{"role": "user", "content": question}] if self.chat else question
        if not isinstance(question, list):
            raise DataError(f"predict: row {row} is {question!r}, needs a text or a conversation")
        return question

    @torch.inference_mode()
    def _continue(self, prompts: list[list[int]], room: int) -> list[dict[str, Any]]:
        model: Any = self.module.model
        inputs, ends = self._padded(prompts).to(next(model.parameters()).device), self._ends()
        sampling = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        generated = model.generate(
            **inputs,
            max_new_tokens=room,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=ends.tolist() or None,
            **sampling,
        )[:, inputs["input_ids"].shape[1] :]
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
        known = ends if isinstance(ends, list) else [ends]
        return torch.tensor(sorted({*known, self.tokenizer.eos_token_id} - {None}))
