"""Settings that data and model share: given once, linked here, refused where the two contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name

from jsonargparse import Namespace
from lightning import LightningDataModule

from peftlit.backbone import Backbone, model_source
from peftlit.batch import DataSpec
from peftlit.errors import ConfigError


def link_to_data(settings: Namespace) -> None:
    """Give the data the backbone's tokenizer, the objective and the training seed, in place.

    Raises:
        BackboneError: There is no such backbone.
        ConfigError: The data's settings name another tokenizer or objective.
    """
    data = settings["data"].get("init_args", Namespace())
    if "seed" in data and data["seed"] is None:
        seed = settings["seed_everything"]
        data["seed"] = None if isinstance(seed, bool) else seed
    # what the model's class learns from texts without labels; None where it learns labels
    objective = getattr(resolve_name(settings["model"]["class_path"]), "objective", None)
    if "objective" in data and data["objective"] not in (None, objective):
        raise ConfigError(f"data.objective: {data['objective']!r} is not what the model learns; leave it out")
    if "objective" in data:
        data["objective"] = objective
    backbone = settings["model"].get("init_args", Namespace()).get("backbone")
    backbone = backbone.get("init_args", backbone) if isinstance(backbone, Namespace) else Namespace()
    name, given = backbone.get("name_or_path"), data.get("tokenizer")
    if not name:
        return
    if given and model_source.resolve(name) != model_source.resolve(given):
        raise ConfigError(
            f"data.tokenizer: {given!r} contradicts backbone.name_or_path {name!r}; leave data.tokenizer out"
        )
    revision, trust = backbone.get("revision"), bool(backbone.get("trust_remote_code"))
    # so that an unreachable model is not reported as an unreachable tokenizer
    Backbone(name, revision=revision, trust_remote_code=trust).read_config()
    if "tokenizer" in data:
        data["tokenizer"], data["tokenizer_revision"], data["trust_remote_code"] = name, revision, trust


def link_to_model(settings: Namespace, data: LightningDataModule | None) -> None:
    """Give the model the data spec: labels, padding, length; in place.

    Raises:
        ConfigError: The model's settings contradict it.
    """
    model = settings["model"].get("init_args", Namespace())
    if "data" not in model or data is None or not hasattr(data, "data_spec"):
        return
    spec: DataSpec = data.data_spec()
    for key, value in (model["data"] or Namespace()).items():
        if getattr(spec, key) is None:
            spec = replace(spec, **{key: value})
        elif value not in (None, getattr(spec, key)):
            raise ConfigError(
                f"model.data.{key}: {value!r} contradicts the data, which gives {getattr(spec, key)!r}; leave it out"
            )
    model["data"] = spec  # as it is: as settings, its texts would be parsed again
