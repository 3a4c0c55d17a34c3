"""Load an exported folder with plain transformers + peft and answer some texts. Imports nothing of peftlit.

Run as ``python -c <this text> FOLDER SCRATCH``. ``SCRATCH/question.json`` holds the texts, cleaned as in training, and
where the base is; ``SCRATCH/answers.safetensors`` gets the logits, or the last hidden states under an own head. This is
also what a user without peftlit would write.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from accelerate import init_empty_weights
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, BitsAndBytesConfig

folder, scratch = Path(sys.argv[1]), Path(sys.argv[2])
question = json.loads((scratch / "question.json").read_text())
trust_remote_code, device, location = question["trust_remote_code"], question["device"], question["base"]
transformers.logging.set_verbosity_error()
auto_class = getattr(transformers, question["auto_class"])
own_head = question["auto_class"] == "AutoModel"
labels = {}
if question["auto_class"] not in ("AutoModelForCausalLM", "AutoModelForMaskedLM"):  # which have no labels
    labels = json.loads((folder / "label_map.json").read_text())
    labels["id2label"] = {int(k): v for k, v in labels["id2label"].items()}
base = json.loads((folder / "backbone.json").read_text())
if (folder / "model.safetensors").is_file():
    location, base = str(folder), {**base, "revision": None}
arguments = {"dtype": getattr(torch, base["dtype"])}
quantized = (folder / "quantization_config.json").is_file()
if quantized:
    arguments["quantization_config"] = BitsAndBytesConfig.from_dict(
        json.loads((folder / "quantization_config.json").read_text())
    )
    arguments["device_map"] = {"": device}
if (folder / "random_base").is_dir() and not (folder / "model.safetensors").is_file():
    # weights from a config: anyone can build them again from the seed
    config = AutoConfig.from_pretrained(folder / "random_base", trust_remote_code=trust_remote_code)
    torch.manual_seed(question["seed"])
    model = auto_class.from_config(config, **({"trust_remote_code": True} if trust_remote_code else {}))
    if quantized:
        model = type(model).from_pretrained(None, config=config, state_dict=model.state_dict(), **arguments)
else:
    model = auto_class.from_pretrained(
        location,
        revision=base["revision"],
        trust_remote_code=trust_remote_code,
        **({} if own_head else labels),
        **base["config_overrides"],
        **arguments,
    )
if trust_remote_code:
    # transformers loads through the meta device, and custom code seldom computes its unsaved buffers again
    with init_empty_weights(include_buffers=False):
        computed = dict(type(model)(model.config).named_buffers(remove_duplicate=False))
    stored = model.state_dict().keys()
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        if name not in stored:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, computed[name].to(buffer.device, buffer.dtype))
if (folder / "head.safetensors").is_file() and not own_head:
    result = model.load_state_dict(load_file(folder / "head.safetensors"), strict=False)
    assert not result.unexpected_keys, result.unexpected_keys
if (folder / "adapter_config.json").is_file():
    model = PeftModel.from_pretrained(model, folder)
if not quantized:
    model = model.to(device)
model.eval()
assert own_head or not labels or model.config.id2label == labels["id2label"], "label names are lost"
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
if model.config.pad_token_id is None:  # as with Llama: the tokenizer in the folder brings one
    model.config.pad_token_id = tokenizer.pad_token_id
texts = [tuple(text) if isinstance(text, list) else text for text in question["texts"]]
inputs = dict(tokenizer(texts, truncation=True, padding=True, return_tensors="pt"))
answers = {f"input.{name}": value for name, value in inputs.items()}
assert int(inputs["input_ids"].max()) < model.config.vocab_size, "the tokenizer has more tokens than the model"
inputs |= load_file(scratch / "more.safetensors")  # positions under left padding
inputs = {name: value.to(device) for name, value in inputs.items()}


trained = load_file(scratch / "trained.safetensors")
if isinstance(model, PeftModel):
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
else:
    loaded = model.state_dict()


def is_there(name: str) -> bool:
    """Tell whether a trained weight came back, in the dtype it was loaded in."""
    found = loaded.get(name)
    return found is not None and torch.equal(found.cpu(), trained[name].to(found.dtype))


(scratch / "lost.json").write_text(json.dumps([name for name in trained if not is_there(name)]))


def answer() -> torch.Tensor:
    """Return logits or last hidden states."""
    output = model(**inputs)
    answered: torch.Tensor = output.last_hidden_state if own_head else output.logits
    if answered.ndim == 3:  # peft puts virtual tokens in front
        answered = answered[:, -inputs["input_ids"].shape[1] :]
    return answered.float().cpu().contiguous()


with torch.inference_mode():
    repacking = [m for m in model.modules() if getattr(m, "support_avx512bf16_for_cpu", False)]
    for module in repacking:
        module.support_avx512bf16_for_cpu = False  # first with the kernel that training used ...
    answers["same_kernel"] = answer()
    for module in repacking:
        module.support_avx512bf16_for_cpu = True
    try:
        answers["any_kernel"] = answer()  # ... then as anyone would get them
    except AssertionError as error:
        if not repacking:
            raise
        # bitsandbytes' kernel for some CPUs does not take layers of every width, so nobody can use it there
        (scratch / "refused_by_kernel.txt").write_text(str(error))
save_file(answers, scratch / "answers.safetensors")
