"""Load an exported folder with plain transformers + peft and answer a probe batch. Imports nothing of peftlit.

Run as ``python -c <this text> FOLDER PROBE SEED TRUST_REMOTE_CODE DEVICE DTYPE AUTO_CLASS``; the probe file
gets the logits added. This is also what a user without peftlit would write.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from accelerate import init_empty_weights
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BitsAndBytesConfig

folder, probe, seed, trust_remote_code, device, dtype, auto_class_name = (
    Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "True", sys.argv[5],
    getattr(torch, sys.argv[6]), sys.argv[7],
)  # fmt: skip
transformers.logging.set_verbosity_error()
auto_class = getattr(transformers, auto_class_name)
labels = json.loads((folder / "label_map.json").read_text())
labels = {"id2label": {int(k): v for k, v in labels["id2label"].items()}, "label2id": labels["label2id"]}
record = next((folder / n for n in ("adapter_config.json", "head.json") if (folder / n).is_file()), None)
base = json.loads(record.read_text()) if record else {"base_model_name_or_path": str(folder), "revision": None}
overrides = {}
if (folder / "config_overrides.json").is_file():
    overrides = json.loads((folder / "config_overrides.json").read_text())
arguments = {"dtype": dtype}
quantized = (folder / "quantization_config.json").is_file()
if quantized:
    arguments["quantization_config"] = BitsAndBytesConfig.from_dict(
        json.loads((folder / "quantization_config.json").read_text())
    )
    arguments["device_map"] = {"": device}
if (folder / "random_base").is_dir():
    # weights from a config: anyone can build them again from the seed
    config = AutoConfig.from_pretrained(folder / "random_base", trust_remote_code=trust_remote_code)
    torch.manual_seed(seed)
    model = auto_class.from_config(config, **({"trust_remote_code": True} if trust_remote_code else {}))
    if quantized:
        model = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), **arguments)
else:
    model = auto_class.from_pretrained(
        base["base_model_name_or_path"],
        revision=base["revision"],
        trust_remote_code=trust_remote_code,
        **labels,
        **overrides,
        **arguments,
    )
if trust_remote_code:
    # transformers loads by way of the meta device; code of a model's own seldom fills its unsaved buffers again
    with init_empty_weights(include_buffers=False):
        computed = dict(type(model)(model.config).named_buffers())
    for name, module in model.named_modules():
        for leaf in module._non_persistent_buffers_set:
            buffer = computed[f"{name}.{leaf}".lstrip(".")]
            setattr(module, leaf, buffer.to(getattr(module, leaf).device, getattr(module, leaf).dtype))
if (folder / "adapter_config.json").is_file():
    model = PeftModel.from_pretrained(model, folder)
elif (folder / "head.safetensors").is_file():
    result = model.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
if not quantized:
    model = model.to(device)
model.eval()
assert model.config.id2label == labels["id2label"], "label names are lost"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
if model.config.pad_token_id is None:  # as with Llama: the tokenizer in the folder brings one
    model.config.pad_token_id = tokenizer.pad_token_id
batch = load_file(probe)
with torch.inference_mode():
    inputs = {k.removeprefix("input."): v.to(device) for k, v in batch.items() if k.startswith("input.")}
    assert int(inputs["input_ids"].max()) < len(tokenizer), "the tokenizer is another one"
    repacking = [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
    for module in repacking:
        module.support_avx512bf16_for_cpu = False  # first with the kernel that training used ...
    batch["logits_same_kernel"] = model(**inputs).logits.float().cpu()
    for module in repacking:
        module.support_avx512bf16_for_cpu = True
    batch["logits"] = model(**inputs).logits.float().cpu()  # ... then as anyone would get them
save_file(batch, probe)
