from __future__ import annotations

import importlib
import sys
from importlib import metadata

import pytest

from peftlit.backbone.model_source import distribution_of, resolve
from peftlit.errors import BackboneError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with weights inside, which must not be imported to find them."""
    weights = tmp_path / "tiny_weights" / "model"
    weights.mkdir(parents=True)
    (tmp_path / "tiny_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return weights


def test_a_folder_becomes_absolute_and_a_hub_id_stays(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("model") == str(tmp_path / "model")
    assert resolve("distilbert/distilbert-base-uncased") == "distilbert/distilbert-base-uncased"


def test_the_outermost_config_of_a_package_is_found_without_importing_it(package):
    with pytest.raises(BackboneError, match="'tiny_weights' holds no config.json"):
        resolve("package:tiny_weights")
    (package / "deeper").mkdir()
    for folder in (package, package / "deeper"):
        (folder / "config.json").write_text("{}")
    assert resolve("package:tiny_weights") == str(package)
    assert "tiny_weights" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package_here", "json.decoder", "../etc", ""])
def test_a_package_that_is_not_installed_is_refused_with_the_command(name):
    with pytest.raises(BackboneError, match="is installed here; install it with: pip install"):
        resolve(f"package:{name}")


def test_the_distribution_of_a_package_is_named(package):
    assert distribution_of("package:safetensors") == ("safetensors", metadata.version("safetensors"))
    for name in ("package:tiny_weights", "safetensors", "package:", None):
        assert distribution_of(name) == (None, None)
