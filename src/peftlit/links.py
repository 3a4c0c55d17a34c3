"""What data and model have to agree on: typed once, handed over here, refused where typed twice and otherwise."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule

from peftlit import location
from peftlit.backbone import Backbone
from peftlit.data import TokenDataModule
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
        data["seed"] = settings["seed_everything"]
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
    if typed and location.resolve(name) != location.resolve(typed):
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
        data: The data module; one without such attributes gives nothing.

    Raises:
        ConfigError: The model's settings say otherwise.
    """
    model = settings["model"].get("init_args", Namespace())
    kind = settings["model"]["class_path"]
    if "num_labels" in model and isinstance(data, TokenDataModule) and not hasattr(data, "label_names"):
        raise ConfigError(
            f"data: {type(data).__name__} has no labels, and {kind.rpartition('.')[2]} learns them; use TextFiles, or "
            "CausalLM or MaskedLM"
        )
    names = getattr(data, "label_names", None)
    train = getattr(data, "reports", {}).get("train")
    known: dict[str, Any] = {
        "problem_type": getattr(data, "problem_type", None),
        "label_names": names,
        "num_labels": len(names) if names else None,
        "class_counts": getattr(data, "class_counts", None),
        "num_rows": train.rows if train else None,
        "pad_token_id": getattr(data, "pad_token_id", None),
        "max_length": getattr(data, "max_length", None),
        "padding_side": getattr(data, "side_padded", None),
        "tokenizer_size": getattr(data, "tokenizer_size", None),
        "prompt": getattr(data, "prompt_record", None),
        "packing": getattr(data, "packing", None),
        "first_tokens_differ": getattr(data, "first_tokens_differ", None),
    }
    for key, value in known.items():
        if key not in model or value is None:
            continue
        if model[key] not in (None, value):
            raise ConfigError(f"model.{key}: {model[key]!r} contradicts the data, which gives {value!r}; leave it out")
        model[key] = value
