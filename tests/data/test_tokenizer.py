from __future__ import annotations

import logging

import pytest
from transformers import ByT5Tokenizer

from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import BackboneError
from tests import tiny
from tests.data.helpers import refusal


def test_a_tokenizer_with_padding_is_taken_as_it_is(tmp_path):
    tiny.write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), max_length=12)
    assert tokenizer.pad_token == "[PAD]"
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == 12


def test_a_tokenizer_without_padding_pads_with_its_end_token_and_says_so(tmp_path, caplog):
    tiny.write_tokenizer(tmp_path, decoder=True)
    with caplog.at_level(logging.INFO, "peftlit"):
        tokenizer = load_tokenizer(str(tmp_path), max_length=12)
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"
    assert "pads with its end token '</s>'" in caplog.text


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_can_be_set(tmp_path, side):
    tiny.write_tokenizer(tmp_path)
    assert load_tokenizer(str(tmp_path), padding_side=side, max_length=12).padding_side == side


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path, decoder=True)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "neither a padding nor an end token" in refusal(lambda: load_tokenizer(str(tmp_path), max_length=12))


@pytest.mark.parametrize("content", [None, "", "{not json"], ids=["none", "empty", "damaged"])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    message = refusal(lambda: load_tokenizer(str(tmp_path), max_length=12))
    assert message.startswith(f"data.tokenizer: cannot load a tokenizer from {str(tmp_path)!r}")


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(BackboneError, match="no package 'no_such_package' is installed"):
        load_tokenizer("package:no_such_package", max_length=12)


def test_a_tokenizer_written_in_python_loads(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path), max_length=12).pad_token == "<pad>"
