"""Every overlay over every recipe: it changes what it names, and nothing else."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import pytest

from peftlit.cli.lightning_cli import PeftlitCLI
from tests.configs.stand_ins import OVERLAYS, RECIPES, flat, name_of, read, write_stand_in
from tests.conftest import errors_of

PAIRS = [pytest.param(r, o, id=f"{name_of(r)}-{o.stem}") for r, o in itertools.product(RECIPES, OVERLAYS)]
OVERLAY = {overlay.stem: overlay for overlay in OVERLAYS}
QUANTIZATION = "model.backbone.quantization"


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Return a function that gives the settings of ``fit --config ... --config ...``; one parser serves all calls."""
    seen: list[PeftlitCLI] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("parsed"))
        patch.setattr(PeftlitCLI, "instantiate_classes", lambda cli: seen.append(cli))
        patch.setattr(PeftlitCLI, "_run_subcommand", lambda cli, command: None)
        PeftlitCLI(["fit", "--config", str(RECIPES[0])])

    @cache
    def parse(*files: Path) -> dict[str, object]:
        arguments = itertools.chain.from_iterable(("--config", str(file)) for file in files)
        settings = seen[0].parser.parse_args(["fit", *arguments])["fit"].as_dict()
        return {key: value for key, value in flat(settings).items() if key != "config"}

    return parse


@pytest.mark.parametrize(("recipe", "overlay"), PAIRS)
def test_it_changes_what_it_names_and_keeps_the_rest(recipe: Path, overlay: Path, parsed) -> None:
    before, after, named = parsed(recipe), parsed(recipe, overlay), flat(read(overlay))
    assert {key: after[key] for key in named} == named
    changed = {key for key in after if key not in before or after[key] != before[key]}
    assert changed <= named.keys()
    lost = before.keys() - after.keys()  # options that another optimizer does not have
    assert all(key.startswith("model.optimizer.") for key in lost)
    assert not lost or "model.optimizer.class_path" in named


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_8gb_keeps_the_effective_batch_and_debug_makes_five_steps_of_it(recipe: Path, parsed) -> None:
    for files in ([recipe], [recipe, OVERLAY["8gb"]]):
        settings = parsed(*files)
        assert settings["data.batch_size"] * settings["trainer.accumulate_grad_batches"] == 16
    debug = flat(read(OVERLAY["debug"]))
    assert debug["data.max_train_samples"] == debug["trainer.max_steps"] * 16


def test_they_name_different_things_so_that_their_order_is_free() -> None:
    for one, other in itertools.combinations(OVERLAYS, 2):
        both = flat(read(one)).keys() & flat(read(other)).keys()
        assert both <= {QUANTIZATION}, f"{one.stem} and {other.stem}"


def test_all_at_once_come_to_the_same_in_either_order(parsed) -> None:
    agreeing = [overlay for name, overlay in OVERLAY.items() if name != "int8"]
    assert parsed(RECIPES[0], *agreeing) == parsed(RECIPES[0], *reversed(agreeing))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_everything_is_built_as_before_a_fit(recipe: Path, peftlit, tmp_path, monkeypatch) -> None:
    built: list[PeftlitCLI] = []
    monkeypatch.setattr(PeftlitCLI, "fit", lambda cli, **arguments: built.append(cli))
    stand_in = write_stand_in(recipe, tmp_path, small=True)
    overlays = list(OVERLAYS)
    for overlay in OVERLAYS:
        code, _, err = peftlit("fit", "--config", recipe, "--config", overlay, "--config", stand_in)
        if overlay.stem == "8gb" and "stella" in recipe.stem:  # the code that stands in cannot recompute activations
            assert "gradient_checkpointing" in errors_of(err)[0]
            overlays.remove(overlay)
            continue
        assert (code, errors_of(err)) == (0, []), overlay.stem
    accumulation = read(recipe)["trainer"].get("accumulate_grad_batches", 1)
    expected = [8 if overlay.stem == "8gb" else accumulation for overlay in overlays]
    assert [cli.trainer.accumulate_grad_batches for cli in built] == expected
