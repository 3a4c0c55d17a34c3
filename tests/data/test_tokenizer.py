from __future__ import annotations

import logging

import pytest

from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import BackboneError
from tests import tiny
from tests.data.helpers import refusal


def test_a_tokenizer_with_padding_is_taken_as_it_is_unless_told(encoder):
    tokenizer = load_tokenizer(encoder, max_length=12)
    assert (tokenizer.pad_token, tokenizer.padding_side, tokenizer.model_max_length) == ("[PAD]", "right", 12)
    assert load_tokenizer(encoder, padding_side="left").padding_side == "left"


def test_a_tokenizer_without_padding_pads_with_its_end_token_and_says_so_or_is_refused(tmp_path, caplog):
    saved = tiny.write_tokenizer(tmp_path, decoder=True)
    with caplog.at_level(logging.INFO, "peftlit"):
        tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert "pads with its end token '</s>'" in caplog.text
    saved.eos_token = None
    saved.save_pretrained(tmp_path)
    assert "neither a padding nor an end token" in refusal(lambda: load_tokenizer(str(tmp_path)))


@pytest.mark.parametrize("content", [None, "", "{not json"], ids=["none", "empty", "damaged"])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    message = refusal(lambda: load_tokenizer(str(tmp_path)))
    assert message.startswith(f"data.tokenizer: cannot load a tokenizer from {str(tmp_path)!r}")


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(BackboneError, match="no package 'no_such_package' is installed"):
        load_tokenizer("package:no_such_package")
