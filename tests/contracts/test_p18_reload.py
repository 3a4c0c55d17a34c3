"""P18: a fresh process with plain transformers + peft reproduces a probe batch from the folder, else fit fails."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from peftlit.adapters import FullFineTuning
from peftlit.backbone import Backbone
from peftlit.data import SST2
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ReloadError
from peftlit.export import reload_check as reload
from peftlit.export import write as export_room
from peftlit.export.reload_check import compare_answers
from peftlit.export.write import export
from peftlit.modules import SequenceClassification
from peftlit.modules.heads import PooledHead
from peftlit.run import finish
from tests import fork_server, tiny
from tests.conftest import errors_of
from tests.forked import peftlit_in
from tests.modules.cases import pad_left

slow = pytest.mark.slow

ADAPTERS = {
    "lora": lambda targets: peft.LoraConfig(r=4, target_modules=targets),
    "head": lambda _: None,
    "full": lambda _: FullFineTuning(),
}


def trained(
    family: str,
    adapter: str,
    quantization: str | None,
    folder: Path,
    toy_data: Path,
    head: PooledHead | None = None,
    dtype: Any = "auto",
):
    """A module whose trainable weights are far from their start, its tokenizer, and some texts."""
    data = SST2(data_dir=str(toy_data), tokenizer=str(folder), max_length=32, eval_batch_size=8)
    module = SequenceClassification(
        Backbone(str(folder), quantization=quantization, dtype=dtype),
        ADAPTERS[adapter](tiny.TARGETS[family]),
        head=head,
        data=data.data_spec(),
    )
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return module, data.get_tokenizer(), data.read()["test"]["text"][:8]


def contract_fresh_process_answers_the_same(module, tokenizer, texts, folder: Path) -> None:
    export(module, tokenizer, folder, {"log_history": []})
    compare_answers(module, tokenizer, texts, folder)


@pytest.mark.parametrize(
    ("family", "adapter", "quantization", "pooling"),
    [
        ("bert", "lora", "nf4-double", None),
        pytest.param("distilbert", "head", "nf4", None, marks=slow),
        pytest.param("roberta", "full", None, None, marks=slow),
        pytest.param("llama", "lora", None, None, marks=slow),
        pytest.param("gpt2", "lora", "int8", None, marks=slow),
        pytest.param("bert", "lora", "nf4-double", "mean", marks=slow),
        pytest.param("llama", "head", None, "last", marks=slow),
        pytest.param("distilbert", "full", None, "cls", marks=slow),
        pytest.param("gpt2", "lora", "int8", "last", marks=slow),
    ],
)
def test_p18_fresh_process_answers_the_same(
    family, adapter, quantization, pooling, model_folder, toy_data, tmp_path
) -> None:
    head = PooledHead(pooling=pooling, hidden_sizes=[16]) if pooling else None
    module, tokenizer, texts = trained(family, adapter, quantization, model_folder(family), toy_data, head)
    contract_fresh_process_answers_the_same(module, tokenizer, texts, tmp_path / "adapter")


@slow
def test_p18_positions_under_left_padding_answer_the_same(model_folder, toy_data, tmp_path) -> None:
    module, _, _ = trained("gpt2", "lora", None, model_folder("gpt2"), toy_data)
    tokenizer = load_tokenizer(str(model_folder("gpt2")), padding_side="left", max_length=32)
    pad_left(module)
    texts = ["good", "a very good film again"]
    contract_fresh_process_answers_the_same(module, tokenizer, texts, tmp_path / "adapter")


@slow
@pytest.mark.parametrize("quantization", [None, "nf4-double"])
def test_p18_a_base_saved_in_bfloat16_with_overrides_answers_the_same(
    quantization, peftlit, settings, write_config, tmp_path
) -> None:
    """Through ``fit``: 16-bit base under mixed precision, float32 head, overrides that the reload has to know."""
    (tmp_path / "base").mkdir()
    tiny.write_model(tmp_path / "base", "llama", dtype="bfloat16")
    backbone = {"name_or_path": "base", "quantization": quantization, "config_overrides": {"rms_norm_eps": 1e-3}}
    settings["model"]["init_args"]["backbone"] = backbone
    settings["model"]["init_args"]["adapter"]["init_args"]["target_modules"] = ["q_proj", "v_proj"]
    settings["data"]["init_args"]["padding_side"] = "left"
    settings["trainer"] |= {"max_epochs": 1, "precision": "bf16-mixed"}
    code, _, err = peftlit("fit", "--config", write_config(settings))
    assert code == 0, err
    assert "answers the same" in err
    assert json.loads((tmp_path / "runs/001/adapter/backbone.json").read_text())["config_overrides"] == {
        "rms_norm_eps": 1e-3
    }


def change(file: Path, how: Any) -> None:
    changed = {name: how(name, value) for name, value in load_file(file).items()}
    save_file({name: value for name, value in changed.items() if value is not None}, file, metadata={"format": "pt"})


DAMAGE = {
    None: ("label_map.json", "problem.json", "tokenizer.json", "tokenizer_config.json", "adapter_model.safetensors"),
    "own head": ("label_map.json", "problem.json", "tokenizer.json", "head.json"),
}


@slow
@pytest.mark.parametrize(("head", "damage"), [(h, name) for h, names in DAMAGE.items() for name in (*names, "weights")])
def test_p18_a_damaged_folder_is_refused(head, damage, model_folder, toy_data, tmp_path) -> None:
    quantization, own = (None, PooledHead()) if head else ("nf4-double", None)
    module, tokenizer, texts = trained("bert", "lora", quantization, model_folder("bert"), toy_data, own)
    folder = tmp_path / "adapter"
    export(module, tokenizer, folder, {"log_history": []})
    if damage == "weights":
        file = "head.safetensors" if head else "adapter_model.safetensors"
        change(folder / file, lambda name, value: value * 1.01)
    else:
        (folder / damage).unlink()
    with pytest.raises(ReloadError):
        compare_answers(module, tokenizer, texts, folder)


def rewrite(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **entries}), encoding="utf-8")


BROKEN = {
    "half of the adapter is lost": lambda folder, base: change(
        folder / "adapter_model.safetensors",
        lambda name, value: value * 0 if "layers.1." in name and "lora_B" in name else value,
    ),
    "labels are swapped": lambda folder, base: rewrite(folder / "label_map.json", id2label={"0": "b", "1": "a"}),
    "another base": lambda folder, base: rewrite(folder / "backbone.json", base_model_name_or_path=str(base)),
    "another scale": lambda folder, base: rewrite(folder / "adapter_config.json", lora_alpha=16),
}


@slow
@pytest.mark.parametrize("damage", BROKEN)
@pytest.mark.parametrize(("dtype", "quantization"), [("bfloat16", None), ("float16", None), ("bfloat16", "nf4")])
def test_p18_goes_red_in_16_bits_too(damage, dtype, quantization, model_folder, toy_data, tmp_path) -> None:
    folder = model_folder("llama")
    module, tokenizer, texts = trained("llama", "lora", quantization, folder, toy_data, dtype=dtype)
    if damage == "half of the adapter is lost":  # what it does to the logits is less than rounding
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(1e-6)
    export(module, tokenizer, tmp_path / "adapter", {})
    assert compare_answers(module, tokenizer, texts, tmp_path / "adapter").difference == 0
    BROKEN[damage](tmp_path / "adapter", tiny.write_model(tmp_path / "base", "llama", initializer_range=0.05))
    with pytest.raises(ReloadError):
        compare_answers(module, tokenizer, texts, tmp_path / "adapter")


def test_p18_breaker_lost_head_fails_the_contract(model_folder, toy_data, tmp_path, monkeypatch) -> None:
    module, tokenizer, texts = trained("bert", "lora", None, model_folder("bert"), toy_data)
    save = export_room._save_weights

    def without_head(module, model, folder: Path) -> None:
        save(module, model, folder)
        change(folder / "adapter_model.safetensors", lambda name, value: None if "classifier" in name else value)

    monkeypatch.setattr(export_room, "_save_weights", without_head)
    with pytest.raises(ReloadError):
        contract_fresh_process_answers_the_same(module, tokenizer, texts, tmp_path / "adapter")


def test_p18_the_export_is_whole(finished_run) -> None:
    folder = finished_run[0] / "adapter"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "adapter_config.json", "adapter_model.safetensors", "backbone.json", "label_map.json", "problem.json",
        "quantization_config.json", "reload_check.json", "tokenizer.json", "tokenizer_config.json",
        "trainer_state.json",
    }  # fmt: skip
    assert "README.md" not in names  # no card is better than one of empty headings
    assert json.loads((folder / "quantization_config.json").read_text())["bnb_4bit_use_double_quant"] is True
    config = json.loads((folder / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).is_dir()
    assert config["task_type"] == "SEQ_CLS"
    assert set(config["modules_to_save"]) >= {"classifier"}


PLAIN_USE = """
import json, sys
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoTokenizer
folder = sys.argv[1]
labels = json.load(open(folder + "/label_map.json"))
labels["id2label"] = {int(i): name for i, name in labels["id2label"].items()}
model = AutoPeftModelForSequenceClassification.from_pretrained(folder, **labels).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
answer = model(**tokenizer(sys.argv[2], return_tensors="pt")).logits.argmax(-1).item()
print(model.config.id2label[answer])
"""


def test_p18_auto_peft_model_answers_with_label_names(finished_run, toy_data) -> None:
    folder, _ = finished_run
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    text = json.loads((toy_data / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    done = fork_server.run([sys.executable, "-c", PLAIN_USE, folder / "adapter", text])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == first["prediction"]


def contract_a_failed_check_costs_nothing_else(peftlit, config: Path, folder: Path) -> None:
    """Scores and pictures are there, the folder says what failed, and who asks for it by name gets answers."""
    why = "cannot load what was exported"
    code, _, err = peftlit("fit", "--config", config)
    assert code == 1
    (line,) = errors_of(err)
    assert err.splitlines()[-1] == line
    assert why in line
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["test"]["rows"], metrics["reload_logit_difference"]) == (30, None)
    assert {"predictions.csv", "confusion_matrix.png", "learning_curves.png"} <= {p.name for p in folder.iterdir()}
    check = json.loads((folder / "adapter/reload_check.json").read_text())
    assert (check["passed"], check["difference"]) == (False, None)
    assert why in check["reason"]
    for command in (["test"], ["predict", "--text=a great film"]):
        code, _, err = peftlit(*command, "--run_dir", folder)
        assert code == 0, err
        assert [line for line in err.splitlines() if "its reload check did not pass: " in line and why in line] != []
    assert json.loads((folder / "metrics.json").read_text())["test"] == metrics["test"]


@pytest.fixture
def two_steps(settings, write_config) -> Path:
    settings["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2}
    return write_config(settings)


@pytest.fixture
def without_weights(monkeypatch) -> None:
    """Let the fresh process find no adapter."""
    run = reload.run_in_fresh_process
    monkeypatch.setattr(reload, "run_in_fresh_process", partial(_run_without_weights, run))


def _run_without_weights(run: Any, script: str, arguments: list[str], cwd: Path) -> None:
    weights = Path(arguments[0], "adapter_model.safetensors")
    aside = weights.rename(weights.with_suffix(".aside"))
    try:
        run(script, arguments, cwd)
    finally:
        aside.rename(weights)


@slow
def test_p18_a_failed_check_costs_nothing_else(peftlit, two_steps, without_weights, tmp_path) -> None:
    contract_a_failed_check_costs_nothing_else(peftlit, two_steps, tmp_path / "runs/001")


@slow
def test_p18_goes_red_when_a_failure_is_only_raised(peftlit, two_steps, without_weights, tmp_path, monkeypatch) -> None:
    def check(module: Any, tokenizer: Any, texts: Any, folder: Path, device: Any) -> reload.Reload:
        return reload.compare_answers(module, tokenizer, texts, folder)

    monkeypatch.setattr(finish, "check_reload", check)
    with pytest.raises(AssertionError):
        contract_a_failed_check_costs_nothing_else(peftlit, two_steps, tmp_path / "runs/001")


@slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_p18_a_run_that_is_ended_within_the_check_can_be_used(number, code, two_steps, tmp_path) -> None:
    def prepare() -> None:
        reload.run_in_fresh_process = lambda *_: os.kill(os.getpid(), number)  # in the child alone

    ended = peftlit_in(tmp_path, "fit", f"--config={two_steps}", "--run_dir=run", prepare=prepare)
    assert ended.code == code, ended.said
    why = "it never finished" if number == signal.SIGKILL else "stopped by SIGTERM"
    again = peftlit_in(tmp_path, "test", "--run_dir=run")
    assert again.code == 0, again.said
    assert f"peftlit: run/adapter: its reload check did not pass: {why}" in again.said.splitlines()
