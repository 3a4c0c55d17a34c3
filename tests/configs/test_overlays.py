"""Every overlay over every recipe: it changes what it names, and nothing else."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from peftlit.cli.lightning_cli import PeftlitCLI
from tests.configs.stand_ins import OVERLAYS, RECIPES, flat, name_of, read, write_stand_in
from tests.conftest import errors_of

OVERLAY = {overlay.stem: overlay for overlay in OVERLAYS}


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_each_changes_what_it_names_and_keeps_the_rest(recipe: Path, parsed) -> None:
    """All overlays over the first recipe, the one that changes most over each."""
    before = parsed(recipe)
    for overlay in OVERLAYS if recipe == RECIPES[0] else [OVERLAY["8gb"]]:
        after, named = parsed(recipe, overlay), flat(read(overlay))
        assert {key: after[key] for key in named} == named, overlay.stem
        changed = {key for key in after if key not in before or after[key] != before[key]}
        assert changed <= named.keys(), overlay.stem
        lost = before.keys() - after.keys()  # options that another optimizer does not have
        assert all(key.startswith("model.optimizer.") for key in lost), overlay.stem
        assert not lost or "model.optimizer.class_path" in named, overlay.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_8gb_keeps_the_effective_batch_and_debug_makes_five_steps_of_it(recipe: Path, parsed) -> None:
    for files in ([recipe], [recipe, OVERLAY["8gb"]]):
        settings = parsed(*files)
        assert settings["data.batch_size"] * settings["trainer.accumulate_grad_batches"] == 16
    debug = flat(read(OVERLAY["debug"]))
    assert debug["data.max_train_samples"] == debug["trainer.max_steps"] * 16


def test_they_name_different_things_so_that_their_order_is_free(parsed) -> None:
    for one, other in itertools.combinations(OVERLAYS, 2):
        both = flat(read(one)).keys() & flat(read(other)).keys()
        assert both <= {"model.backbone.quantization"}, f"{one.stem} and {other.stem}"
    agreeing = [overlay for name, overlay in OVERLAY.items() if name != "int8"]
    assert parsed(RECIPES[0], *agreeing) == parsed(RECIPES[0], *reversed(agreeing))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_everything_is_built_as_before_a_fit(recipe: Path, peftlit, tmp_path, monkeypatch) -> None:
    """Under the overlay that changes most; how each of the others is built, ``test_recipes.py`` sees when it trains."""
    built: list[PeftlitCLI] = []
    monkeypatch.setattr(PeftlitCLI, "fit", lambda cli, **arguments: built.append(cli))
    stand_in = write_stand_in(recipe, tmp_path, small=True)
    code, _, err = peftlit("fit", "--config", recipe, "--config", OVERLAY["8gb"], "--config", stand_in)
    if "stella" in recipe.stem:  # the code that stands in cannot recompute activations
        assert "gradient_checkpointing" in errors_of(err)[0]
    else:
        assert (code, errors_of(err)) == (0, [])
        assert [cli.trainer.accumulate_grad_batches for cli in built] == [8]
