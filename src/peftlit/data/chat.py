"""Prompts, completions and conversations as tokens: one renderer for fit, test and predict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.blocks import special_tokens
from peftlit.data.checks import check_text
from peftlit.data.messages import Message, check_messages
from peftlit.errors import ConfigError, DataError

_CONTEXT = "\n"
"""Put before a text to tokenize it as a continuation; nearly all vocabularies never merge it with what follows."""


class Sample(NamedTuple):
    """One training row.

    Attributes:
        prompt: A text, or messages. Without a completion, a whole conversation whose assistant messages are learned.
        completion: A text or messages, as the prompt is; of messages, the assistant's are learned.
    """

    prompt: str | list[Message]
    completion: str | list[Message] | None = None


class Encoded(NamedTuple):
    """One sample as tokens; ``labels`` are ``IGNORE_INDEX`` where nothing is learned, and not shifted."""

    input_ids: list[int]
    labels: list[int]


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:  # nearly always, and faster than the loop
        return length
    return next(i for i in range(length) if first[i] != second[i])


class Renderer:
    """Tokenize prompts and samples such that training and prediction see the same tokens before a completion.

    Args:
        tokenizer: The tokenizer.
        chat_template: Jinja template of a conversation, set on the tokenizer and saved with it; None = the tokenizer's
            own.

    Attributes:
        prefix: Special tokens that the tokenizer adds before a text.
        merged: Number of rows so far in which tokenizing prompt and completion together merges them at the boundary.
            Their prompts keep the tokens of prediction, and their completions are tokenized separately.

    Raises:
        ConfigError: The template is not valid.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.prefix, _ = special_tokens(tokenizer)
        self.merged = 0
        if chat_template is not None:
            tokenizer.chat_template = chat_template
            with suppress(DataError):  # a valid template may refuse this conversation
                self.render([{"role": "user", "content": "hello"}], "", 0, add_generation_prompt=True)

    def render(self, messages: Sequence[Message], source: str, row: int, *, add_generation_prompt: bool) -> str:
        """Return a conversation as the chat template renders it; raise a DataError if it refuses to."""
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                "data.chat_template: the tokenizer has no chat template and the rows are conversations; give one"
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages),  # type: ignore[arg-type]  # a Message is a dict
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                )
            )
        except TemplateError as error:
            reason = " ".join(str(error.message).split()).rstrip(".")
            if isinstance(error, TemplateSyntaxError):
                raise ConfigError(f"data.chat_template: not valid in line {error.lineno}: {reason}; fix it") from error
            raise DataError(f"{source}, row {row}: the chat template refuses the conversation: {reason}") from error

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, without special tokens."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def encode_prompts(
        self, prompts: Sequence[str | list[Message]], source: str, rows: Sequence[int]
    ) -> list[list[int]]:
        """Return the model's input in prediction: the tokens that :meth:`encode` has before the last completion.

        Prompts are texts, or conversations that end with a user's message; ``rows`` are their numbers in ``source``.
        """
        texts = []
        for prompt, row in zip(prompts, rows, strict=True):
            if isinstance(prompt, str):
                check_text(prompt, "prompt", source, row)
                texts.append(prompt)
            else:
                check_messages(prompt, source, row, last="user")
                texts.append(self.render(prompt, source, row, add_generation_prompt=True))
        encoded = []
        for prompt, row, ids in zip(prompts, rows, self.tokenize(texts), strict=True):
            encoded.append([*self.prefix, *ids] if isinstance(prompt, str) else ids)
            if not encoded[-1]:
                raise DataError(f"{source}, row {row}: the prompt has no token, nothing to answer; write one")
        return encoded

    def encode(
        self, samples: Sequence[Sample], source: str, rows: Sequence[int], *, completion_only: bool
    ) -> list[Encoded]:
        """Return samples, as :class:`~peftlit.data.samples.SampleReader` reads them, as tokens with labels.

        A text completion ends with one eos token, which is learned; a conversation ends as its template renders it.
        A token that merges an earlier turn with the text around it is not learned. ``rows`` are their numbers in
        ``source``. Under ``completion_only`` completions and assistant messages are learned, else every token but the
        first.

        Raises:
            DataError: A row has nothing to learn.
        """
        texts = [self._render(s, source, row, completion_only) for s, row in zip(samples, rows, strict=True)]
        tokens = iter(self.tokenize([text for group in texts for text in group]))
        groups = [[next(tokens) for _ in group] for group in texts]
        completions = self._completions(texts, groups)
        encoded = []
        for sample, group, completion, row in zip(samples, groups, completions, rows, strict=True):
            prompt = group[-2]
            if isinstance(sample.prompt, str):
                prompt, completion = [*self.prefix, *prompt], self._with_eos(completion, source, row)
            ids = [*prompt, *completion]
            labels = [IGNORE_INDEX] * len(prompt) + completion if completion_only else list(ids)
            for before, after in zip(group[:-2:2], group[1:-2:2], strict=True):  # earlier turns
                start, stop = common_length(before, ids), common_length(after, ids)
                start += start < len(before)  # this token is part of the prompt and of the turn
                labels[start:stop] = ids[start:stop]
            labels[:1] = [IGNORE_INDEX]  # nothing predicts the first token
            if all(label == IGNORE_INDEX for label in labels):
                raise DataError(f"{source}, row {row}: no token after the prompt, nothing to learn; drop the row")
            encoded.append(Encoded(ids, labels))
        return encoded

    def _render(self, sample: Sample, source: str, row: int, completion_only: bool) -> list[str]:
        """Return a sample up to the start and end of every learned turn, each text a prefix of the next."""
        prompt, completion = sample
        where = f"{source}, row {row}"
        if isinstance(prompt, str):
            return [prompt, f"{prompt}{completion}"]
        messages = [*prompt, *(completion or [])]
        first = 0 if completion is None else len(prompt)
        turns = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
        if not turns:
            raise DataError(f"{where}: the completion is empty, nothing to learn; drop the row")
        full = self.render(messages, source, row, add_generation_prompt=False)
        texts: list[str] = []
        for i in turns if completion_only else turns[-1:]:
            if not messages[i]["content"].strip():
                raise DataError(f"{where}: message {i + 1} is empty, nothing to learn; drop the row")
            before = self.render(messages[:i], source, row, add_generation_prompt=True)
            is_last = i == len(messages) - 1
            after = full if is_last else self.render(messages[: i + 1], source, row, add_generation_prompt=False)
            if completion_only and before.startswith(after):
                raise DataError(
                    f"{where}: the chat template renders nothing of message {i + 1}, nothing to learn; "
                    "fix data.chat_template"
                )
            texts += [before, after]
        if all(after.startswith(before) for before, after in pairwise([*texts, full])):
            return texts
        if completion_only:
            raise DataError(
                f"{where}: the chat template does not render an assistant's turn as a continuation of the text before "
                "it; set data.completion_only: false"
            )
        return ["", full]

    def _completions(self, texts: Sequence[list[str]], groups: Sequence[list[list[int]]]) -> list[list[int]]:
        """Return the tokens after the last prompt's."""
        completions = [full[len(prompt) :] for *_, prompt, full in groups]
        # one unknown token may cover the whole completion
        merged = [
            i for i, (*_, prompt, full) in enumerate(groups) if not completions[i] or full[: len(prompt)] != prompt
        ]
        self.merged += len(merged)
        rests = [texts[i][-1][len(texts[i][-2]) :] for i in merged]
        context, *continued = self.tokenize([_CONTEXT, *(_CONTEXT + rest for rest in rests)])
        for i, continuation, alone in zip(merged, continued, self.tokenize(rests), strict=True):
            *_, prompt, full = groups[i]
            completions[i] = alone
            if continuation[: len(context)] == context:
                continuation = continuation[len(context) :]
                if self.tokenizer.decode([*prompt, *continuation]) == self.tokenizer.decode(full):
                    completions[i] = continuation
        return completions

    def _with_eos(self, completion: list[int], source: str, row: int) -> list[int]:
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise DataError("data.tokenizer: it has no eos token to end completions with; set eos_token in it")
        while completion and completion[-1] == eos:
            completion = completion[:-1]
        if not completion:
            raise DataError(f"{source}, row {row}: the completion is empty, nothing to learn; drop the row")
        return [*completion, eos]
