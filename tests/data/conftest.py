"""A tokenizer that the tests of this folder share."""

from __future__ import annotations

from collections import Counter

import pytest

from peftlit.data import TextFiles
from tests import tiny


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> str:
    """The folder of an encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_tokenizer(folder)
    return str(folder)


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
