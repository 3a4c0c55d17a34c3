"""How a text to classify is put to a causal language model, and the tokens of every answer it may give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from peftlit.data.chat import Renderer, common_length
from peftlit.data.messages import Message
from peftlit.errors import ConfigError, DataError

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Prompt:
    """A text as a question, and the words that answer it.

    Args:
        template: The question; ``{text}`` stands for the text and ``{text_pair}`` for the second one of a pair.
        system: System message before it, in a chat.
        label_words: What the model would say for each label, in the order of their ids; None = the labels' names.
        chat: Put it as a user's message into the chat template; False = as plain text; None = as a chat where there is
            a system message or a chat template, the tokenizer's own included.
        chat_template: Jinja template of a conversation; None = the tokenizer's own.

    Raises:
        ConfigError: A placeholder or a label word is not as it should be, or settings contradict each other.
    """

    def __init__(
        self,
        template: str = "{text}",
        *,
        system: str | None = None,
        label_words: list[str] | None = None,
        chat: bool | None = None,
        chat_template: str | None = None,
    ) -> None:
        placeholders = _PLACEHOLDER.findall(template)
        for name in placeholders:
            if name not in ("text", "text_pair"):
                raise ConfigError(
                    f"data.prompt.template: got the placeholder {{{name}}}, knows {{text}} and {{text_pair}}"
                )
        if "text" not in placeholders:
            raise ConfigError(f"data.prompt.template: got {template!r}, needs {{text}} where the text stands")
        if chat is False and (system is not None or chat_template is not None):
            name = "system" if system is not None else "chat_template"
            raise ConfigError(f"data.prompt.{name}: a plain text has none; unset it, or set data.prompt.chat: true")
        if label_words is not None:
            _check_words(label_words)
        self.template = template
        self.system = system
        self.label_words = label_words
        self.chat = chat
        self.chat_template = chat_template
        self.takes_pairs = "text_pair" in placeholders

    def settings(self) -> dict[str, object]:
        """Return the arguments that make this prompt again, as plain JSON values."""
        return {
            "template": self.template,
            "system": self.system,
            "label_words": self.label_words,
            "chat": self.chat,
            "chat_template": self.chat_template,
        }

    def words(self, label_names: Sequence[str]) -> list[str]:
        """Return the word of every label.

        Args:
            label_names: The labels' names in the order of their ids.

        Raises:
            ConfigError: There are more or fewer words than labels, or two are the same.
        """
        words = list(label_names) if self.label_words is None else self.label_words
        if len(words) != len(label_names):
            raise ConfigError(
                f"data.prompt.label_words: got {len(words)} words, needs {len(label_names)}, one for each of "
                f"{', '.join(label_names)}"
            )
        _check_words(words)
        return words

    def is_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Say whether the question is put as a chat.

        Args:
            tokenizer: The tokenizer, whose template counts where nothing is set.

        Raises:
            ConfigError: It has to be a chat, and there is no template.
        """
        has_template = self.chat_template is not None or tokenizer.chat_template is not None
        if not has_template and (self.chat or self.system is not None):
            raise ConfigError(
                "data.prompt.chat_template: the tokenizer has no chat template and prompt asks for a chat; give one"
            )
        return has_template if self.chat is None else self.chat

    def fill(self, text: Text) -> str:
        """Return the question about a text, which is put in as it is, braces included.

        Args:
            text: A text, or a pair of texts.
        """
        parts = _parts(text)
        return _PLACEHOLDER.sub(lambda found: parts[0] if found[1] == "text" else parts[1], self.template)

    def messages(self, text: Text) -> list[Message]:
        """Return the question about a text as a conversation.

        Args:
            text: A text, or a pair of texts.
        """
        system: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.fill(text)}]


class Candidates(NamedTuple):
    """One question with all its answers as tokens.

    Attributes:
        input_ids: What all answers have in front.
        label_ids: The rest, for each label.
        tokens: Length of the question with its longest answer before the text was cut.
    """

    input_ids: list[int]
    label_ids: list[list[int]]
    tokens: int


class LabelPrompts:
    """Puts texts to a causal language model that is to say their label.

    Args:
        prompt: How to ask.
        tokenizer: The tokenizer.
        label_names: The labels' names in the order of their ids.
        max_length: Tokens of a question with its longest answer at most; the text of a longer one is cut.

    Attributes:
        words: What the model would say for each label.

    Raises:
        ConfigError: The words do not go with the labels, or a chat template is missing or not valid.
    """

    def __init__(
        self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str], max_length: int
    ) -> None:
        self.prompt = prompt
        self.label_names = list(label_names)
        self.words = prompt.words(label_names)
        self.max_length = max_length
        self._is_chat = prompt.is_chat(tokenizer)
        self._renderer = Renderer(tokenizer, chat_template=prompt.chat_template)
        self._front = [] if self._is_chat else self._renderer.front
        self._checked: set[tuple[tuple[int, ...], ...]] = set()

    def encode(self, texts: Sequence[Text], source: str, rows: Sequence[int]) -> list[Candidates]:
        """Return the tokens of every question with every answer, tokenized as one text.

        A text that is too long is cut at its right end, of a pair the longer one first.

        Args:
            texts: Texts, or pairs of texts.
            source: Where the rows are from.
            rows: Their numbers there.

        Raises:
            ConfigError: Two labels cannot be told apart, or the template alone is longer than ``max_length``.
            DataError: A row has not the texts that the template asks for, or nothing stands before its answer.
        """
        texts = list(texts)
        for text, row in zip(texts, rows, strict=True):
            self._check_text(text, source, row)
        found = self._candidates(texts, source, rows)
        tokens = [one.tokens for one in found]
        while too_long := [i for i, one in enumerate(found) if one.tokens > self.max_length]:
            for i, shorter in zip(too_long, self._shortened(texts, found, too_long), strict=True):
                texts[i] = shorter
            again = self._candidates([texts[i] for i in too_long], source, [rows[i] for i in too_long])
            for i, one in zip(too_long, again, strict=True):
                found[i] = one
        return [one._replace(tokens=before) for one, before in zip(found, tokens, strict=True)]

    def _check_text(self, text: Text, source: str, row: int) -> None:
        if self.prompt.takes_pairs and isinstance(text, str):
            raise DataError(
                f"{source}, row {row}: has one text, and data.prompt.template asks for {{text_pair}}; leave it out"
            )
        if not self.prompt.takes_pairs and not isinstance(text, str):
            raise DataError(f"{source}, row {row}: has two texts; name {{text_pair}} in data.prompt.template")

    def _candidates(self, texts: Sequence[Text], source: str, rows: Sequence[int]) -> list[Candidates]:
        if self._is_chat:
            questions = [
                self._renderer.render(self.prompt.messages(text), source, row, add_generation_prompt=True)
                for text, row in zip(texts, rows, strict=True)
            ]
        else:
            questions = [self.prompt.fill(text) for text in texts]
        spelt = [question + word for question in questions for word in ("", *self.words)]
        encoded = iter(self._renderer.tokenize(spelt))
        found = []
        for row in rows:
            asked, *answered = ([*self._front, *next(encoded)] for _ in ("", *self.words))
            length = min(common_length(asked, ids) for ids in answered)
            if length == 0:
                raise DataError(
                    f"{source}, row {row}: no token stands before the answer; write something in front of {{text}} in "
                    "data.prompt.template"
                )
            label_ids = [ids[length:] for ids in answered]
            self._check_labels(label_ids)
            found.append(Candidates(asked[:length], label_ids, length + max(map(len, label_ids))))
        return found

    def _check_labels(self, label_ids: list[list[int]]) -> None:
        key = tuple(map(tuple, label_ids))
        if key in self._checked:  # most rows have the same
            return
        for i, ids in enumerate(label_ids):
            if not ids:
                raise ConfigError(
                    f"data.prompt.label_words: {self._named(i)} adds no token to the question; give it another word"
                )
        for i, first in enumerate(label_ids):
            for j, second in enumerate(label_ids):
                if i != j and second[: len(first)] == first:
                    raise ConfigError(
                        f"data.prompt.label_words: the tokens of {self._named(i)} begin those of {self._named(j)}, so "
                        "the two cannot be told apart; give one another word"
                    )
        self._checked.add(key)

    def _named(self, label: int) -> str:
        return f"{self.words[label]!r} (label {self.label_names[label]})"

    def _shortened(self, texts: Sequence[Text], found: Sequence[Candidates], too_long: Sequence[int]) -> list[Text]:
        """Return texts that lack as many tokens at their right end as their questions have too many."""
        parts = [_parts(texts[i]) for i in too_long]
        tokens = iter(self._renderer.tokenize([part for pair in parts for part in pair]))
        shortened: list[Text] = []
        for i, pair in zip(too_long, parts, strict=True):
            if not any(pair):
                raise ConfigError(
                    f"data.prompt.template: the template alone takes {found[i].tokens} tokens of a window of "
                    f"{self.max_length}; shorten it or raise data.max_length"
                )
            ids = [next(tokens) for _ in pair]
            lengths = [len(one) for one in ids]
            kept = max(sum(lengths) - (found[i].tokens - self.max_length), 0)
            most = max(kept - min(lengths), kept // 2) if len(pair) == 2 else kept
            cut = [self._cut(part, one, most) for part, one in zip(pair, ids, strict=True)]
            if cut == pair:  # nothing of it was a token
                cut = ["" for _ in pair]
            shortened.append(cut[0] if len(cut) == 1 else (cut[0], cut[1]))
        return shortened

    def _cut(self, text: str, ids: list[int], most: int) -> str:
        """Return a text without what its tokens after the first ``most`` spell, nor white space at its new end."""
        if len(ids) <= most:
            return text
        # a cut within the bytes of a character makes all bytes beside it undecodable; the next one is 3 on at most
        ends = [self._renderer.tokenizer.decode(ids[start:]) for start in range(most, most + 4)]
        spelt = next((end for end in ends if "\ufffd" not in end), ends[0])
        return text[: max(len(text) - max(len(spelt), 1), 0)].rstrip() if most else ""


def _parts(text: Text) -> list[str]:
    return [text] if isinstance(text, str) else list(text)


def _check_words(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"data.prompt.label_words: word {number} is {word!r}, needs a text")
        if word in words[: number - 1]:
            raise ConfigError(f"data.prompt.label_words: {word!r} stands there twice; give each label its own")
