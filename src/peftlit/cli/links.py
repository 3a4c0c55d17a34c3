"""What data and model have to agree on: typed once, handed over here, refused where typed twice and otherwise."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule

from peftlit.backbone.backbone import Backbone, model_source
from peftlit.errors import ConfigError


def link_to_data(settings: Namespace) -> None:
    """Give the data the backbone's tokenizer, and the training seed; make sure that the backbone can be reached.

    Args:
        settings: The parsed settings, completed in place.

    Raises:
        BackboneError: There is no such backbone.
        ConfigError: Another tokenizer is typed.
    """
    data = settings["data"].get("init_args", Namespace())
    if "seed" in data and data["seed"] is None:
        seed = settings["seed_everything"]
        data["seed"] = None if isinstance(seed, bool) else seed
    objective = _objective(settings["model"]["class_path"])
    if "objective" in data and data["objective"] not in (None, objective):
        raise ConfigError(f"data.objective: {data['objective']!r} is not what the model learns; leave it out")
    if "objective" in data:
        data["objective"] = objective
    backbone = settings["model"].get("init_args", Namespace()).get("backbone")
    backbone = backbone.get("init_args", backbone) if isinstance(backbone, Namespace) else Namespace()
    name, typed = backbone.get("name_or_path"), data.get("tokenizer")
    if not name:
        return
    if typed and model_source.resolve(name) != model_source.resolve(typed):
        raise ConfigError(
            f"data.tokenizer: {typed!r} contradicts backbone.name_or_path {name!r}; leave data.tokenizer out"
        )
    revision, trust = backbone.get("revision"), bool(backbone.get("trust_remote_code"))
    # an unreachable model is told as such, not by way of its tokenizer
    Backbone(name, revision=revision, trust_remote_code=trust).read_config()
    if "tokenizer" in data:
        data["tokenizer"], data["tokenizer_revision"], data["trust_remote_code"] = name, revision, trust


def _objective(class_path: str) -> Any:
    """Return what a model's class learns of texts without labels; None where it learns labels, or does not say."""
    module, _, name = class_path.rpartition(".")
    return getattr(getattr(import_module(module), name), "objective", None)


def link_to_model(settings: Namespace, data: LightningDataModule | None) -> None:
    """Give the model what the data knows: labels, padding, length.

    Args:
        settings: The parsed settings, completed in place.
        data: The data module; one without ``facts()`` gives nothing.

    Raises:
        ConfigError: The model's settings say otherwise.
    """
    model = settings["model"].get("init_args", Namespace())
    if "data" not in model or data is None or not hasattr(data, "data_spec"):
        return
    facts, typed = data.data_spec(), model["data"] or Namespace()
    known = Namespace(**vars(facts))
    for key, value in typed.items():
        if known[key] is None:
            known[key] = value
        elif value not in (None, known[key]):
            raise ConfigError(
                f"model.data.{key}: {value!r} contradicts the data, which gives {known[key]!r}; leave it out"
            )
    model["data"] = known
