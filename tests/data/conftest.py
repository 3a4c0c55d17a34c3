"""Tokenizers that the tests of this folder share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from peftlit.data import TextFiles
from tests import tiny
from tests.data.language_data import write_pieces


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """The folder of an encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> str:
    """A folder with a tokenizer that ends texts as a decoder's."""
    folder = tmp_path_factory.mktemp("decoder")
    tiny.write_tokenizer(folder, decoder=True)
    return str(folder)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> str:
    """A folder with a tokenizer as BERT's, that cuts words into pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    write_pieces(folder)
    return str(folder)


@pytest.fixture
def tokenizer(decoder) -> PreTrainedTokenizerBase:
    """The decoder's tokenizer, to be changed at will."""
    return AutoTokenizer.from_pretrained(decoder)


@pytest.fixture
def stories(shared: Path) -> PreTrainedTokenizerBase:
    """A real tokenizer, of stories260K."""
    return AutoTokenizer.from_pretrained(shared / "models" / "stories260K-llama")


@pytest.fixture
def tokenized(monkeypatch, encoder) -> Counter[str]:
    """Count the texts that go through the tokenizer."""
    texts: Counter[str] = Counter()
    kind = type(TextFiles(train_file="-", tokenizer=encoder).get_tokenizer())
    whole = kind.__call__

    def counting(self, text, *args, **kwargs):
        texts.update(text)
        return whole(self, text, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", counting)
    return texts
