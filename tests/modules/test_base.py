from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

from peftlit.backbone import Backbone
from peftlit.errors import AdapterError, BackboneError, ConfigError
from peftlit.modules import SequenceClassification, build
from peftlit.modules.optim import LinearWarmup
from tests.conftest import toy_rows
from tests.modules.cases import LABELS, NF4, Case, collate, fit, loader, make_module, make_trainer

LORA, NONE = Case("bert", "lora"), Case("bert", "none")


@pytest.fixture
def bert(model_folder):
    return model_folder("bert")


def test_nothing_is_loaded_before_it_is_wanted_and_then_once(monkeypatch, bert):
    module = make_module(LORA, bert)
    with monkeypatch.context() as patch:
        patch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
        module.check()
    assert module.model is None
    module.configure_model()
    first = module.model
    module.configure_model()
    assert module.model is first


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"adapter": LoraConfig(target_modules=["q_lin"])}, AdapterError,
         "'q_lin' matches no module of BertForSequenceClassification"),
        ({"data": {"pad_token_id": 5000}}, ConfigError,
         "padding token has id 5000, but the model knows .* do not belong together"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_found_before_weights_load(arguments, error, said, bert):
    with pytest.raises(error, match=said):
        make_module(LORA, bert, **arguments).check()


def test_label_names_are_needed_and_known_to_the_models_config(bert):
    with pytest.raises(ConfigError, match="data: has no labels, and SequenceClassification learns them"):
        SequenceClassification(Backbone(str(bert)))
    config = make_module(LORA, bert).read_config()
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {"negative": 0, "positive": 1}


@pytest.mark.parametrize(
    ("family", "adapter", "longest"),
    [
        *[(family, None, 64) for family in ("bert", "gpt2", "llama", "modernbert")],
        ("roberta", None, 64),  # 66 position embeddings, counted from after the padding's id, which is 1
        ("bert", PromptTuningConfig(num_virtual_tokens=4), 60),
        ("bert", PrefixTuningConfig(num_virtual_tokens=4), 60),
        ("gpt2", PrefixTuningConfig(num_virtual_tokens=4), 60),
    ],
)
def test_rows_may_be_as_long_as_positions_and_virtual_tokens_allow(family, adapter, longest, model_folder):
    folder, taken = model_folder(family), ", of which 4 go to virtual tokens" * (adapter is not None)
    module = make_module(Case(family, "none"), folder, adapter=adapter, data={"max_length": longest})
    module.check()
    module.configure_model()
    batch = collate(folder, [{"text": "good " * 70, "label": 1}])
    cut = {name: value[:, :longest] if value.ndim == 2 else value for name, value in batch.items()}
    assert module.evaluate_batch(cut).isfinite().all()
    said = f"max_length: got {longest + 1}, but {family} has 64 positions{taken}; set max_length to {longest} or less"
    with pytest.raises(ConfigError, match=said):
        make_module(Case(family, "none"), folder, adapter=adapter, data={"max_length": longest + 1}).check()


def test_a_backbone_of_which_nothing_can_be_quantized_is_refused(bert, monkeypatch):
    monkeypatch.setattr(build, "is_quantized", lambda model: False)
    with pytest.raises(BackboneError, match="no layer of .* could be quantized"):
        make_module(Case("bert", "lora", NF4), bert).configure_model()


def test_losses_are_means_over_rows_and_the_module_can_be_used_again(bert):
    module, rows = make_module(NONE, bert), toy_rows(7)
    batches = [collate(bert, rows[:5]), collate(bert, rows[5:])]
    make_trainer(1).validate(module, torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    logged = float(module.trainer.callback_metrics["val/loss"])
    total, weight, _ = module.eval().loss(collate(bert, rows))
    assert logged == pytest.approx(float(total / weight), abs=1e-6)
    fit(module, bert, 2).test(module, loader(bert, 1), verbose=False)
    fit(module, bert, 2)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_batch_leaves_the_mode_as_it_was(training, bert):
    module = make_module(LORA, bert)
    module.configure_model()
    module.train(training)
    assert module.evaluate_batch(collate(bert, toy_rows(3))).shape == (3, 2)
    assert {m.training for m in module.model.modules()} == {training}


def test_any_torch_schedule_steps_with_the_optimizer(bert):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    trainer = fit(make_module(NONE, bert, scheduler=schedule), bert, 4, accumulate_grad_batches=2, max_epochs=2)
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**4)


def test_a_plateau_schedule_watches_its_monitor(bert):
    schedule = partial(ReduceLROnPlateau, monitor="val/loss")
    assert fit(make_module(NONE, bert, scheduler=schedule), bert, 2).lr_scheduler_configs[0].monitor == "val/loss"


def test_a_schedule_over_a_run_without_an_end_is_refused_by_one_of_our_errors(bert):
    module = make_module(NONE, bert, scheduler=LinearWarmup(warmup_ratio=0.1))
    with pytest.raises(ConfigError, match=r"max_epochs|max_steps"):
        make_trainer(-1, max_epochs=-1, max_time="00:00:00:01").fit(module, loader(bert, 1))
