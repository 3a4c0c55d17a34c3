"""Prompts, completions and conversations as tokens: one renderer for fit, test and predict."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.blocks import special_tokens
from peftlit.data.checks import check_text
from peftlit.data.messages import Message, check_messages
from peftlit.errors import ConfigError, DataError

_ANCHOR = "\n"
"""Stands before a text that goes on, as it stands for itself in nearly all vocabularies."""


class Sample(NamedTuple):
    """What one row teaches.

    Attributes:
        prompt: A text, or messages. Without a completion a whole conversation, every assistant's turn of it learned.
        completion: What follows the prompt, a text or messages as that is; of messages only the assistant's are
            learned.
    """

    prompt: str | list[Message]
    completion: str | list[Message] | None = None


class Encoded(NamedTuple):
    """One sample as tokens.

    Attributes:
        input_ids: Token ids.
        labels: The same ids where they are learned, ``IGNORE_INDEX`` elsewhere. Models shift them, not we.
    """

    input_ids: list[int]
    labels: list[int]


class _Rendered(NamedTuple):
    """A sample as texts, each the front of the next: before and after every learned turn; the last is all of it."""

    texts: list[str]
    is_chat: bool


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common in front.

    Args:
        first: Token ids.
        second: Token ids.
    """
    length = min(len(first), len(second))
    if first[:length] == second[:length]:  # nearly always so, and quicker than one by one
        return length
    return next(i for i in range(length) if first[i] != second[i])


class Renderer:
    """Makes tokens of prompts and samples, so that what is learned follows the very tokens that predict feeds.

    Args:
        tokenizer: The tokenizer.
        chat_template: Jinja template of a conversation; the tokenizer takes it over and is saved with it. None = the
            tokenizer's own.

    Attributes:
        front: Special tokens that the tokenizer puts in front of a plain text.
        merged: Rows so far whose completion begins within a token of the whole text. Their prompts are kept as
            predict feeds them, and the completion is tokenized by itself: as the continuation of a line, or from the
            beginning of a text where only that spells the same.

    Raises:
        ConfigError: The template is not valid.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.front, _ = special_tokens(tokenizer)
        self.merged = 0
        if chat_template is not None:
            tokenizer.chat_template = chat_template
            with suppress(DataError):  # a valid template may refuse this conversation
                self.render([{"role": "user", "content": "hello"}], "", 0, add_generation_prompt=True)

    def render(self, messages: Sequence[Message], source: str, row: int, *, add_generation_prompt: bool) -> str:
        """Return a conversation as the template spells it.

        Args:
            messages: The conversation.
            source: Where the row is from.
            row: Its number there.
            add_generation_prompt: End with what announces the assistant's turn.

        Raises:
            ConfigError: There is no template, or it is not valid.
            DataError: The template refuses the conversation.
        """
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
        except TemplateSyntaxError as error:
            raise ConfigError(
                f"data.chat_template: not valid in line {error.lineno}: {_one_line(error)}; mend it"
            ) from error
        except TemplateError as error:
            raise DataError(
                f"{source}, row {row}: the chat template refuses the conversation: {_one_line(error)}"
            ) from error

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, without special tokens around them.

        Args:
            texts: The texts.
        """
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def encode_prompts(
        self, prompts: Sequence[str | list[Message]], source: str, rows: Sequence[int]
    ) -> list[list[int]]:
        """Return what a model is fed to answer: the tokens that :meth:`encode` has before the last completion.

        Args:
            prompts: Texts, or conversations that end with the user.
            source: Where the rows are from.
            rows: Their numbers there.

        Raises:
            ConfigError: A conversation has no template.
            DataError: A conversation is out of order, or a prompt has no token.
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
            encoded.append([*self.front, *ids] if isinstance(prompt, str) else ids)
            if not encoded[-1]:
                raise DataError(f"{source}, row {row}: the prompt has no token, nothing to answer; write one")
        return encoded

    def encode(
        self, samples: Sequence[Sample], source: str, rows: Sequence[int], *, completion_only: bool
    ) -> list[Encoded]:
        """Return samples as tokens with labels.

        A text's completion ends with one end token, which is learned. A conversation has what its template spells. Of
        a conversation with several turns, a token that joins an earlier turn with what stands beside it is not learned.

        Args:
            samples: What to learn.
            source: Where the rows are from.
            rows: Their numbers there.
            completion_only: Learn completions and assistants' turns; False = every token but the first.

        Raises:
            ConfigError: A conversation has no template.
            DataError: A row is not as it should be, or has nothing to learn.
        """
        rendered = [self._render(s, source, row, completion_only) for s, row in zip(samples, rows, strict=True)]
        tokens = iter(self.tokenize([text for one in rendered for text in one.texts]))
        groups = [[next(tokens) for _ in one.texts] for one in rendered]
        encoded = []
        completions = self._completions(rendered, groups)
        for one, group, completion, row in zip(rendered, groups, completions, rows, strict=True):
            if not one.is_chat:
                completion = self._ended(completion, source, row)
            prompt = group[-2] if one.is_chat else [*self.front, *group[-2]]
            ids = [*prompt, *completion]
            labels = [IGNORE_INDEX] * len(prompt) + completion if completion_only else list(ids)
            if completion_only:
                for before, after in zip(group[:-2:2], group[1:-2:2], strict=True):
                    start, stop = common_length(before, ids), common_length(after, ids)
                    start += start < len(before)  # the token there is the prompt's and the turn's
                    labels[start:stop] = ids[start:stop]
            labels[:1] = [IGNORE_INDEX]  # nothing stands before it
            if all(label == IGNORE_INDEX for label in labels):
                raise DataError(f"{source}, row {row}: no token after the prompt, nothing to learn; drop the row")
            encoded.append(Encoded(ids, labels))
        return encoded

    def _render(self, sample: Sample, source: str, row: int, completion_only: bool) -> _Rendered:
        prompt, completion = sample
        if isinstance(prompt, str) and isinstance(completion, str):
            check_text(prompt, "prompt", source, row)
            check_text(completion, "completion", source, row)
            return _Rendered([prompt, prompt + completion], is_chat=False)
        if isinstance(prompt, str) or not isinstance(completion, (list, tuple, type(None))):
            raise DataError(
                f"{source}, row {row}: prompt is a {type(prompt).__name__} and completion a "
                f"{type(completion).__name__}; needs two texts or two lists of messages"
            )
        messages = [*prompt, *(completion or [])] if isinstance(prompt, (list, tuple)) else prompt
        check_messages(messages, source, row)
        given = 0 if completion is None else len(prompt)
        learned = [i for i in range(given, len(messages)) if messages[i]["role"] == "assistant"]
        if not learned:
            raise DataError(f"{source}, row {row}: the completion is empty, nothing to learn; drop the row")
        full = self.render(messages, source, row, add_generation_prompt=False)
        texts: list[str] = []
        for i in learned if completion_only else learned[-1:]:
            if not messages[i]["content"].strip():
                raise DataError(f"{source}, row {row}: message {i + 1} is empty, nothing to learn; drop the row")
            prefix = self.render(messages[:i], source, row, add_generation_prompt=True)
            last = i == len(messages) - 1
            whole = full if last else self.render(messages[: i + 1], source, row, add_generation_prompt=False)
            if completion_only and prefix.startswith(whole):
                raise DataError(
                    f"{source}, row {row}: the chat template renders nothing of message {i + 1}, nothing to learn; "
                    "mend data.chat_template"
                )
            texts += [prefix, whole]
        if all(b.startswith(a) for a, b in zip(texts, [*texts[1:], full], strict=True)):
            return _Rendered(texts, is_chat=True)
        if completion_only:
            raise DataError(
                f"{source}, row {row}: the chat template renders an assistant's turn otherwise than what precedes it "
                "announces; set data.completion_only: false"
            )
        return _Rendered(["", full], is_chat=True)

    def _completions(self, rendered: Sequence[_Rendered], groups: Sequence[list[list[int]]]) -> list[list[int]]:
        """Return the tokens after the last prompt's."""
        found = [full[len(prompt) :] for *_, prompt, full in groups]
        # an unknown word may swallow all that follows
        merged = [i for i, (*_, prompt, full) in enumerate(groups) if not found[i] or full[: len(prompt)] != prompt]
        self.merged += len(merged)
        rests = [rendered[i].texts[-1][len(rendered[i].texts[-2]) :] for i in merged]
        anchor, *anchored = self.tokenize([_ANCHOR, *(_ANCHOR + rest for rest in rests)])
        for i, going_on, alone in zip(merged, anchored, self.tokenize(rests), strict=True):
            *_, prompt, full = groups[i]
            found[i] = alone
            if going_on[: len(anchor)] == anchor:
                spelt = self.tokenizer.decode([*prompt, *going_on[len(anchor) :]])
                if spelt == self.tokenizer.decode(full):
                    found[i] = going_on[len(anchor) :]
        return found

    def _ended(self, completion: list[int], source: str, row: int) -> list[int]:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise DataError("data.tokenizer: it has no end token to close completions with; set eos_token in it")
        while completion and completion[-1] == end:
            completion = completion[:-1]
        if not completion:
            raise DataError(f"{source}, row {row}: the completion is empty, nothing to learn; drop the row")
        return [*completion, end]


def _one_line(error: TemplateError) -> str:
    return " ".join(str(error.message).split()).rstrip(".")
