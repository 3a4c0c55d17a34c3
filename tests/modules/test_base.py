from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

from peftlit.backbone import Backbone
from peftlit.errors import AdapterError, BackboneError, ConfigError
from peftlit.modules import SequenceClassification, build
from peftlit.modules.optim import LinearWarmup
from tests import tiny
from tests.conftest import toy_rows
from tests.modules.cases import NF4, Case, collate, fit, loader, make_module, make_trainer


def test_the_constructor_loads_nothing(monkeypatch, model_folder):
    monkeypatch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.check()
    assert module.model is None


def test_configuring_twice_builds_once(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.configure_model()
    first = module.model
    module.configure_model()
    assert module.model is first


def test_check_names_targets_before_weights_load(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"), adapter=LoraConfig(target_modules=["q_lin"]))
    with pytest.raises(AdapterError, match="'q_lin' matches no module of BertForSequenceClassification"):
        module.check()


@pytest.mark.parametrize(("family", "longest"), [("bert", 64), ("gpt2", 64), ("llama", 64), ("modernbert", 64)])
def test_check_compares_lengths_with_positions(family, longest, model_folder):
    make_module(Case(family, "lora"), model_folder(family), data={"max_length": longest}).check()
    with pytest.raises(ConfigError, match=f"max_length: got {longest + 1}, but {family} has {longest} positions"):
        make_module(Case(family, "lora"), model_folder(family), data={"max_length": longest + 1}).check()


@pytest.mark.parametrize(
    ("family", "adapter"), [("bert", PromptTuningConfig), ("bert", PrefixTuningConfig), ("gpt2", PrefixTuningConfig)]
)
def test_check_counts_virtual_tokens_among_positions(family, adapter, model_folder):
    folder, rows = model_folder(family), [{"text": "good " * 70, "label": 1}]
    for length in (60, 61):
        virtual = adapter(num_virtual_tokens=4)
        module = make_module(Case(family, "lora"), folder, adapter=virtual, data={"max_length": length})
        if length == 60:
            module.check()
            module.configure_model()
            batch = collate(folder, rows)
            cut = {name: value[:, :length] if value.ndim == 2 else value for name, value in batch.items()}
            assert module.evaluate_batch(cut).isfinite().all()
        else:
            with pytest.raises(ConfigError, match="64 positions, of which 4 go to virtual tokens; set max_length to 6"):
                module.check()


def test_check_knows_that_roberta_counts_positions_from_after_its_padding(model_folder):
    folder = model_folder("roberta")  # 66 position embeddings, padding id 1: rows of 64 tokens at most
    rows = [{"text": "good " * 70, "label": 1}]
    for length in (64, 65):
        module = make_module(Case("roberta", "none"), folder, data={"max_length": length})
        module.configure_model()
        batch = {name: value[:, :length] if value.ndim == 2 else value for name, value in collate(folder, rows).items()}
        if length == 64:
            module.check()
            module.evaluate_batch(batch)
        else:
            with pytest.raises(ConfigError, match="64 positions"):
                module.check()


def test_check_compares_tokenizer_and_vocabulary(model_folder):
    with pytest.raises(ConfigError, match="padding token has id 5000, but the model knows .* do not belong together"):
        make_module(Case("bert", "lora"), model_folder("bert"), data={"pad_token_id": 5000}).check()


def test_a_backbone_of_which_nothing_can_be_quantized_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr("peftlit.modules.build.is_quantized", lambda model: False)
    with pytest.raises(BackboneError, match="no layer of .* could be quantized"):
        make_module(Case("bert", "lora", NF4), model_folder("bert")).configure_model()


def test_parameters_are_reported_by_part(model_folder, caplog):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    with caplog.at_level(logging.INFO, "peftlit"):
        module.configure_model()
        module.on_fit_start()
    head = 2 * tiny.HIDDEN + 2
    adapter = 2 * 3 * 2 * 4 * tiny.HIDDEN  # layers, targets, A and B, rank
    assert f"trainable {head + adapter:,} of " in caplog.text
    assert f"adapter {adapter:,}, head {head:,}" in caplog.text


def test_a_checkpoint_holds_what_trains_and_nothing_else(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.configure_model()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}


def test_losses_are_means_over_rows_not_over_batches(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder)
    rows = toy_rows(7)
    batches = [collate(folder, rows[:5]), collate(folder, rows[5:])]
    make_trainer(1).validate(module, torch.utils.data.DataLoader(batches, batch_size=None), verbose=False)
    logged = float(module.trainer.callback_metrics["val/loss"])
    total, weight, _ = module.eval().loss(collate(folder, rows))
    assert logged == pytest.approx(float(total / weight), abs=1e-6)


def test_a_validation_before_the_fit_does_no_harm(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder)
    make_trainer(1).validate(module, loader(folder, 1), verbose=False)
    fit(module, folder, 2)


def test_a_test_and_a_second_fit_with_one_module_work(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder)
    fit(module, folder, 2).test(module, loader(folder, 1), verbose=False)
    fit(module, folder, 2)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_batch_leaves_the_mode_as_it_was(training, model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.configure_model()
    module.train(training)
    logits = module.evaluate_batch(collate(model_folder("bert"), toy_rows(3)))
    assert logits.shape == (3, 2)
    assert {m.training for m in module.model.modules()} == {training}


def test_any_torch_schedule_steps_with_the_optimizer(model_folder):
    folder = model_folder("bert")
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    module = make_module(Case("bert", "none"), folder, scheduler=schedule)
    trainer = fit(module, folder, 4, accumulate_grad_batches=2, max_epochs=2)
    assert trainer.global_step == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**4)


def test_a_plateau_schedule_watches_its_monitor(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder, scheduler=partial(ReduceLROnPlateau, monitor="val/loss"))
    trainer = fit(module, folder, 2)
    assert trainer.lr_scheduler_configs[0].monitor == "val/loss"


def test_a_schedule_over_a_run_without_an_end_is_refused_by_one_of_our_errors(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder, scheduler=LinearWarmup(warmup_ratio=0.1))
    with pytest.raises(ConfigError, match=r"max_epochs|max_steps"):
        make_trainer(-1, max_epochs=-1, max_time="00:00:00:01").fit(module, loader(folder, 1))


def test_label_names_are_needed():
    backbone = Backbone(config={"model_type": "bert", **tiny.CONFIGS["bert"]})
    with pytest.raises(ConfigError, match="data: has no labels, and SequenceClassification learns them"):
        SequenceClassification(backbone)


def test_the_models_config_knows_the_labels(model_folder):
    config = make_module(Case("bert", "lora"), model_folder("bert")).read_config()
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.label2id == {"negative": 0, "positive": 1}


def test_a_test_step_gives_rows_labels_and_answers(model_folder):
    folder = model_folder("gpt2")
    module = make_module(Case("gpt2", "lora"), folder)
    module.configure_model()
    module.eval()
    batch = collate(folder, toy_rows(3))
    with torch.inference_mode():
        found = module.test_step(batch, 0)
    assert found["row"].tolist() == [1, 2, 3]
    assert found["labels"].tolist() == [row["label"] for row in toy_rows(3)]
    torch.testing.assert_close(found["answers"].sum(-1), torch.ones(3))
