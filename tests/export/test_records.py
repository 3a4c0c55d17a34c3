"""An export names its base so that another machine finds it, and knows whether it is the same."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import peftlit
from peftlit.adapters import FullFineTuning
from peftlit.backbone import Backbone
from peftlit.digest import weights_sha256
from peftlit.errors import BackboneError
from peftlit.export.reload_check import compare_answers
from peftlit.export.write import export
from peftlit.run.evaluation import UseExport
from peftlit.run.folder import RunFolder
from tests.conftest import toy_rows
from tests.modules.cases import Case, collate, make_module, tokenizer

NAME = "package:tiny_weights"
OTHER = (
    r"adapter: the weights of 'package:tiny_weights' here have sha256 [0-9a-f]{12}\.\.\., but it was trained on "
    r"[0-9a-f]{12}\.\.\.; install tiny-weights-of-mine==1\.2$"
)


@pytest.fixture
def place(model_folder, tmp_path, monkeypatch) -> Path:
    """Where a package with weights inside is installed, which must not be imported to find them."""
    place = tmp_path / "place"
    shutil.copytree(model_folder("bert"), place / "tiny_weights/model")
    (place / "tiny_weights/__init__.py").write_text("raise RuntimeError('imported')")
    information = place / "tiny_weights_of_mine-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights-of-mine\nVersion: 1.2\n")
    (information / "top_level.txt").write_text("tiny_weights\n")
    monkeypatch.syspath_prepend(place)
    importlib.invalidate_caches()
    return place


def exported(folder: Path, adapter: str = "lora", **arguments: Any) -> Any:
    """Export an untrained module on the package's weights; return it."""
    module = make_module(Case("bert", adapter), NAME, **arguments)
    module.configure_model()
    export(module, tokenizer(NAME), folder, {})
    return module


def install_other_weights(place: Path) -> None:
    file = place / "tiny_weights/model/model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["lora", "none", "full", "random"])
def test_no_export_names_a_path_of_the_machine(kind, place, tmp_path) -> None:
    module = make_module(Case("bert", "lora" if kind == "random" else kind), NAME)
    if kind == "random":
        module.backbone = Backbone(config=str(place / "tiny_weights/model"))
    module.configure_model()
    export(module, tokenizer(NAME), tmp_path / "adapter", {})
    files = [path for path in (tmp_path / "adapter").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path.name for path in files if str(tmp_path).encode() in path.read_bytes()] == []


def test_the_record_names_package_version_and_digest(place, tmp_path) -> None:
    exported(tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter/backbone.json").read_text())
    assert record["base_model_name_or_path"] == NAME
    assert (record["package"], record["package_version"]) == ("tiny-weights-of-mine", "1.2")
    assert record["weights_sha256"] == weights_sha256(str(place / "tiny_weights/model"), None)
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == NAME


def test_it_answers_from_where_the_package_is_now(place, tmp_path, monkeypatch, recwarn) -> None:
    module = exported(tmp_path / "adapter")
    batch = collate(NAME, toy_rows(4))
    expected = module.evaluate_batch(batch)
    recwarn.clear()
    place.rename(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    importlib.invalidate_caches()
    assert peftlit.load(tmp_path / "adapter", device="cpu").module.evaluate_batch(batch).equal(expected)
    assert [str(warning.message) for warning in recwarn if "base_model_name_or_path" in str(warning.message)] == []
    assert compare_answers(module, tokenizer(NAME), ["good", "a bad film"], tmp_path / "adapter").difference < 1e-4


def test_other_weights_are_refused_before_they_load(place, tmp_path, monkeypatch) -> None:
    module = exported(tmp_path / "run/adapter")
    install_other_weights(place)
    monkeypatch.setattr(type(module), "configure_model", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(BackboneError, match=OTHER):
        peftlit.load(tmp_path / "run/adapter")
    with pytest.raises(BackboneError, match=OTHER):
        UseExport(RunFolder(tmp_path / "run")).setup(SimpleNamespace(), module, "test")  # type: ignore[arg-type]


def test_full_fine_tuning_needs_no_base(place, tmp_path) -> None:
    exported(tmp_path / "adapter", "full")
    install_other_weights(place)
    assert isinstance(peftlit.load(tmp_path / "adapter", device="cpu").module.adapter, FullFineTuning)


def test_an_export_of_an_earlier_version_is_loaded(place, tmp_path) -> None:
    """Its base is an absolute path, without a digest."""
    exported(tmp_path / "adapter")
    path = tmp_path / "adapter/backbone.json"
    record = json.loads(path.read_text()) | {"base_model_name_or_path": str(place / "tiny_weights/model")}
    path.write_text(json.dumps({key: record[key] for key in record if key[:3] in ("bas", "rev", "con", "dty")}))
    assert peftlit.load(tmp_path / "adapter", device="cpu").predict(["good"])
