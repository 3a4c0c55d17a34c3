"""Private names of other libraries: each one that src leans on is listed here, is there, and does what is assumed."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModel, BertConfig

import peftlit
from peftlit.backbone.hardware import has_bfloat16
from peftlit.backbone.quantization import keep_4bit_trainable_on_cpu
from peftlit.cli.error_mapping import map_missing_attributes
from peftlit.cli.trainer_checks import check_trainer
from peftlit.errors import PeftlitError
from peftlit.modules.accumulation import check_nothing_inside_windows
from tests.modules.test_window_checks import trainer

SRC = Path(peftlit.__file__).parent
DOCUMENTED = {"_exit", "_replace"}
"""Public by their documentation in spite of the underscore: ``os._exit``, and of named tuples."""


class Looks(Callback):
    """Look at a Trainer's privates while it trains, as the callbacks that lean on them do."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        loop = trainer.fit_loop
        assert loop._data_fetcher is not None
        assert loop._can_stop_early
        assert loop._restarting is loop.restarting is False
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        assert loop.epoch_loop._should_check_val_fx(loop._data_fetcher) == is_last
        (saver,) = trainer.checkpoint_callbacks
        assert saver._every_n_train_steps == 1
        assert saver._last_global_step_saved == trainer.global_step - 1  # its turn comes after this one
        assert saver._train_time_interval is None
        assert saver._defer_save_until_validation is False
        assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
        for heard in (True, False):
            trainer._signal_connector.received_sigterm = heard
            assert trainer.received_sigterm is heard
        self.looked = True


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """Return a function that trains once, for all that look."""

    @lru_cache
    def train() -> None:
        looks, saver = Looks(), ModelCheckpoint(tmp_path_factory.mktemp("saved"), every_n_train_steps=1)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        limits = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1}
        Trainer(callbacks=[saver, looks], **limits, **quiet).fit(BoringModel())
        assert looks.looked

    return train


def _linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 4))


def _lora_losses() -> None:
    tuner = get_peft_model(_linear(), LoraConfig(target_modules=["0"])).base_model
    assert (tuner._get_kasa_loss(), tuner._get_monteclora_loss()) == (0.0, 0.0)


def _attention() -> None:
    config = BertConfig(num_hidden_layers=1)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        assert AutoModel.from_config(config).config._attn_implementation == "eager"


def _parts_of_the_cli() -> None:
    assert "self._parse_ckpt_path()" in inspect.getsource(LightningCLI.__init__)
    assert "self._run_subcommand(self.subcommand)" in inspect.getsource(LightningCLI.__init__)
    for method in (LightningCLI._run_subcommand, LightningCLI._parser):
        assert list(inspect.signature(method).parameters) == ["self", "subcommand"]


def _logger_of_bitsandbytes() -> None:
    module = importlib.import_module("bitsandbytes.autograd._functions")
    assert module.logger.name == "bitsandbytes.autograd._functions"
    assert "inputs will be cast from" in inspect.getsource(module)


def _cpu_features() -> None:
    features = torch.cpu.get_capabilities()  # public, but not in all of the versions that are allowed
    assert torch.cpu._is_avx512_bf16_supported() == features.get("avx512_bf16", False)
    assert torch.cpu._is_amx_tile_supported() == features.get("amx_tile", False)


def _subcommands() -> None:
    parser, child = ArgumentParser(), ArgumentParser()
    assert parser._subcommands_action is None
    child.add_argument("--rate", type=float)
    parser.add_subcommands().add_subcommand("fit", child)
    assert parser._subcommands_action.choices["fit"] is child
    assert "rate" in [action.dest for action in child._actions]


def _clock_of_a_checkpoint() -> None:
    every = timedelta(minutes=5)
    assert ModelCheckpoint(train_time_interval=every)._train_time_interval == every


def _broadcast() -> None:
    assert list(inspect.signature(_TrainingEpochLoop._broadcast_sigterm_tensor).parameters) == ["self"]
    assert "self._broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)


def _start_method() -> None:
    assert [DDPStrategy(start_method=way)._start_method for way in ("popen", "spawn")] == ["popen", "spawn"]


TOLD_IN_TRAINING = "_can_stop_early _data_fetcher _defer_save_until_validation _every_n_train_steps "
TOLD_IN_TRAINING += "_last_global_step_saved _restarting _should_check_val_fx"
LISTED: list[tuple[str, str, Callable[[], None] | None]] = [
    ("adapters/peft_method.py", "_get_kasa_loss _get_monteclora_loss", _lora_losses),
    ("backbone/backbone.py modules/language_head.py", "_attn_implementation", _attention),
    ("backbone/hardware.py", "_is_avx512_bf16_supported _is_amx_tile_supported", _cpu_features),
    ("checkpoint/resume.py", TOLD_IN_TRAINING, None),
    ("cli/console.py", "bitsandbytes.autograd._functions", _logger_of_bitsandbytes),
    ("cli/lightning_cli.py", "_parse_ckpt_path _parser _run_subcommand", _parts_of_the_cli),
    ("cli/parser.py", "_subcommands_action _actions", _subcommands),
    ("cli/trainer_checks.py", "_start_method", _start_method),
    ("modules/accumulation.py", "_train_time_interval", _clock_of_a_checkpoint),
    ("plugins/stop_on_signal.py", "_accelerator_connector _signal_connector", None),
    ("plugins/stop_on_signal.py", "_broadcast_sigterm_tensor", _broadcast),
]
"""Files, the names that they lean on, and what shows that those are as assumed; None = :class:`Looks` in a training."""


@pytest.mark.parametrize(("files", "names", "holds"), LISTED)
def test_it_is_there_and_does_what_is_assumed(files, names, holds, request) -> None:
    try:
        (holds or request.getfixturevalue("training"))()
    except (AssertionError, AttributeError, ImportError) as error:
        pytest.fail(f"{files} lean on {names}: {type(error).__name__}: {error}")


def test_public_names_that_a_guard_goes_by_are_there() -> None:
    """Were they missing, distributed.py, quantization.py or adapters/ would find nothing to guard, and say nothing."""
    assert _SubprocessScriptLauncher(LightningEnvironment(), 1, 1).procs == []
    assert hasattr(Linear4bit(4, 4), "support_avx512bf16_for_cpu")
    for kind in (Linear4bit, Linear8bitLt):
        for method in ("hira", "ia3", "lora", "road"):
            assert hasattr(importlib.import_module(f"peft.tuners.{method}.bnb"), kind.__name__), method
    adalora = get_peft_model(_linear(), AdaLoraConfig(target_modules=["0"], total_step=30))
    assert any(".ranknum." in name for name, _ in adalora.named_parameters())


def _private(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"_[a-zA-Z]\w*", name))


def _own_names(trees: list[ast.Module]) -> set[str]:
    """Name what src itself defines: functions, and what it assigns to its own objects."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    assigned = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and _is_own(n)}
    return assigned | {n.name for n in nodes if isinstance(n, ast.FunctionDef)}


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _used(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Yield the private names that a file reads or sets on others' objects, by a string too, or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _private(node.attr) and not (_is_own(node) and node.attr in own):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("attr"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and _private(a.value))
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("peftlit", "__future__")):
            yield from (p for a in node.names for p in [*(node.module or "").split("."), a.name] if _private(p))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(\.\w+)*\._[a-z]\w*", str(node.value)):
            yield str(node.value)


def _overridden() -> Iterator[tuple[str, str]]:
    """Yield the private names of others' classes that classes of src define anew, and their files."""
    for found in pkgutil.walk_packages([str(SRC)], "peftlit."):
        if found.name.endswith((".reload_probe", ".__main__")):
            continue
        module = importlib.import_module(found.name)
        for kind in vars(module).values():
            if isinstance(kind, type) and kind.__module__ == found.name:
                others = [base for base in kind.__mro__ if not base.__module__.startswith(("peftlit.", "abc"))]
                names = {name for base in others for name in vars(base)} & set(vars(kind)) - {"_abc_impl"}
                yield from ((name, str(Path(module.__file__).relative_to(SRC))) for name in names if _private(name))


def test_the_list_is_whole_and_holds_nothing_else() -> None:
    trees = {str(file.relative_to(SRC)): ast.parse(file.read_text(encoding="utf-8")) for file in SRC.rglob("*.py")}
    own = _own_names(list(trees.values()))
    found = {(name, file) for file, tree in trees.items() for name in _used(tree, own)} | set(_overridden())
    assert {(name, file) for name, file in found if name not in DOCUMENTED} == {
        (name, file) for files, names, _ in LISTED for name in names.split() for file in files.split()
    }


def test_no_class_of_a_library_is_told_by_its_name_as_text() -> None:
    pattern = re.compile(r"\)\.__name__ (==|in) [(\[]?[\"']")
    assert not [file for file in SRC.rglob("*.py") if pattern.search(file.read_text(encoding="utf-8"))]


def test_the_walk_finds_every_way_to_reach_a_private_name() -> None:
    source = "x._a; getattr(x, '_b', None); from torch._c import d; import_module('torch._e'); self._f; self._own = 1"
    tree = ast.parse(source)
    assert set(_used(tree, _own_names([tree]))) == {"_a", "_b", "_c", "torch._e", "_f"}


def _lacking(thing: Any, name: str) -> Any:
    delattr(thing, name)
    return thing


def _clocks() -> None:
    saver = _lacking(ModelCheckpoint(), "_train_time_interval")
    check_nothing_inside_windows(trainer(checkpoint_callbacks=[saver], accumulate_grad_batches=2))


@pytest.mark.parametrize(
    "guard",
    [
        lambda: check_trainer({"strategy": _lacking(DDPStrategy(), "_start_method")}, None),
        _clocks,
        lambda: keep_4bit_trainable_on_cpu(_lacking(Linear4bit(4, 4), "support_avx512bf16_for_cpu")),
        lambda: has_bfloat16("cpu"),
    ],
)
def test_a_guard_whose_name_is_gone_says_so_in_one_line(guard, monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    said = r"^(lightning|bitsandbytes|torch) \d\S+: .*, which peftlit needs; install a version"
    with pytest.raises(PeftlitError, match=said), map_missing_attributes():
        guard()


def test_an_error_in_a_users_code_passes_as_it_is() -> None:
    with pytest.raises(AttributeError, match="_nothing"), map_missing_attributes():
        torch.zeros(1)._nothing  # noqa: B018
