"""How a text to classify is put to a causal language model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from peftlit.data.messages import Message
from peftlit.errors import ConfigError

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class Prompt:
    """A question about a text, and the words that answer it.

    Args:
        template: The question; ``{text}`` stands for the text and ``{text_pair}`` for the second text of a pair.
        system: System message of the chat.
        label_words: The answer for each label, in the order of their ids; None = the labels' names.
        chat: Put the question as a user message into the chat template; False = as plain text; None = as a chat if
            there is a system message or a chat template, the tokenizer's own included.
        chat_template: Jinja template of a conversation; None = the tokenizer's own.

    Raises:
        ConfigError: A placeholder or a label word is not valid, or settings contradict each other.
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
        """Return the arguments of this prompt as JSON values."""
        names = ("template", "system", "label_words", "chat", "chat_template")
        return {name: getattr(self, name) for name in names}

    def words(self, label_names: Sequence[str]) -> list[str]:
        """Return the word of every label, in the order of ``label_names``."""
        words = list(label_names) if self.label_words is None else self.label_words
        if len(words) != len(label_names):
            raise ConfigError(
                f"data.prompt.label_words: got {len(words)} words, needs {len(label_names)}, one for each of "
                f"{', '.join(label_names)}"
            )
        _check_words(words)
        return words

    def is_chat(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Say whether the question is put as a chat; raise a ConfigError if it must be and there is no template."""
        has_template = self.chat_template is not None or tokenizer.chat_template is not None
        if not has_template and (self.chat or self.system is not None):
            raise ConfigError(
                "data.prompt.chat_template: the tokenizer has no chat template and prompt asks for a chat; give one"
            )
        return has_template if self.chat is None else self.chat

    def fill(self, text: Text) -> str:
        """Return the question about a text, which is inserted as it is, braces included."""
        first, second = (text, text) if isinstance(text, str) else text
        return _PLACEHOLDER.sub(lambda found: first if found[1] == "text" else second, self.template)

    def messages(self, text: Text) -> list[Message]:
        """Return the question about a text as a conversation."""
        system: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": self.fill(text)}]


def _check_words(words: Sequence[str]) -> None:
    for number, word in enumerate(words, 1):
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(f"data.prompt.label_words: word {number} is {word!r}, needs a text")
        if word in words[: number - 1]:
            raise ConfigError(f"data.prompt.label_words: {word!r} is there twice; give each label its own")
