"""What a stranger may have put into a folder: for each, the export it is put into, how, and what is said of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

Spoil = Callable[[Path], None]

ADAPTER, HEAD, FULL, RANDOM = "NF4 and LoRA", "own head", "full fine-tuning", "random base"
SCORED, CHECKPOINT = "test of a run", "fit from a checkpoint"
EXPORTS = (ADAPTER, HEAD, FULL, RANDOM)
"""Exports that answer a text; beside them, a run folder that is tested, and a checkpoint that a run goes on from."""

WEIGHTS = {
    ADAPTER: "adapter_model.safetensors", HEAD: "head.safetensors", FULL: "model.safetensors",
    RANDOM: "adapter_model.safetensors",
}  # fmt: skip
TEN_GB = 10_000_000_000
HUB = "hub"
"""Where huggingface_hub keeps what it downloaded."""


@dataclass(frozen=True)
class Stranger:
    """One folder. ``said`` is part of the line that refuses it; None = it is answered with as without the stranger."""

    name: str
    spoil: Spoil
    said: str | None = None
    kind: str = ADAPTER


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.file,)


def spoils(do: Callable[..., Any]) -> Callable[..., Spoil]:
    """Let a function of a folder be given its other arguments before there is a folder."""
    return lambda *arguments, **named: lambda folder: do(folder, *arguments, **named)


@spoils
def entries(folder: Path, file: str, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@spoils
def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a checkpoint holds, and its digest with it."""
    path = folder / "checkpoint.json"
    header = json.loads(path.read_text())
    tree = dict(header["tree"]["dict"])
    change(tree)
    header["tree"] = {"dict": [[key, value] for key, value in tree.items()]}
    header["tree_sha256"] = sha256(json.dumps(header["tree"]).encode()).hexdigest()
    path.write_text(json.dumps(header))


@spoils
def inside(folder: Path, spoil: Spoil) -> None:
    """Do it to the adapter of a run."""
    spoil(folder / "adapter")


@spoils
def content(folder: Path, file: str, text: str | bytes) -> None:
    (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())


@spoils
def sparse(folder: Path, file: str) -> None:
    """Replace a file by one of 10 GB that takes no room on the disk."""
    (folder / file).write_bytes(b"")
    os.truncate(folder / file, TEN_GB)


@spoils
def link(folder: Path, file: str, target: str) -> None:
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to(target)


@spoils
def fifo(folder: Path, file: str) -> None:
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)


@spoils
def remove(folder: Path, file: str) -> None:
    (folder / file).unlink()


PICKLES = "adapter_model.bin pytorch_model.bin head.bin model.bin optimizer.pt training_args.bin"


def pickles(folder: Path) -> None:
    """Put pickles beside, under the names that libraries look for."""
    for name in PICKLES.split():
        (folder / name).write_bytes(pickle.dumps(Payload(f"{folder}/unpickled")))


@spoils
def pickles_instead(folder: Path, file: str) -> None:
    pickles(folder)
    (folder / file).unlink()


def a_pickle(folder: Path) -> None:
    """Put one file in the place of a checkpoint folder."""
    shutil.rmtree(folder)
    torch.save({"state_dict": Payload(f"{folder}.unpickled")}, folder)


@spoils
def tensors(folder: Path, spoil: Callable[[str], Spoil]) -> None:
    """Do something to a checkpoint's tensors."""
    spoil(next(file.name for file in folder.glob("tensors-*")))(folder)


@spoils
def changed_bytes(folder: Path, change: Callable[[bytearray], bytes | bytearray], kind: str = ADAPTER) -> None:
    path = folder / WEIGHTS[kind]
    path.write_bytes(change(bytearray(path.read_bytes())))


def flipped(at: int) -> Callable[[bytearray], bytearray]:
    """Flip one bit."""

    def change(data: bytearray) -> bytearray:
        data[at] ^= 1
        return data

    return change


def huge_shapes(data: bytearray) -> bytes:
    """Let the header of a safetensors file say that a tensor is larger than the file."""
    length = struct.unpack("<Q", data[:8])[0]
    tensors = json.loads(data[8 : 8 + length])
    next(value for name, value in tensors.items() if name != "__metadata__")["shape"] = [1 << 40, 1 << 20]
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def deep(key: str = "a") -> str:
    return f'{{"{key}":' * 200_000 + "1" + "}" * 200_000


def one_text(mebibytes: int) -> str:
    return f'{{"a": "{"a" * (mebibytes << 20)}"}}'


@spoils
def base(folder: Path, fill: Callable[[Path], None]) -> None:
    """Name a base model that lies in the folder: the one that was there, copied and changed."""
    record, own = json.loads((folder / "backbone.json").read_text()), folder / "base"
    shutil.copytree(record["base_model_name_or_path"], own)
    fill(own)
    entries("backbone.json", base_model_name_or_path=str(own), trust_remote_code=True)(folder)


@spoils
def hub(folder: Path, fill: Callable[[Path], None]) -> None:
    """Name a base model of the hub that was downloaded before: the one that was there, copied and changed."""
    base(fill)(folder)
    name = f"model{folder.name}"
    cache = folder.parent / HUB / f"models--stranger--{name}"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (folder / "base").rename(cache / "snapshots" / ("0" * 40))
    entries("backbone.json", base_model_name_or_path=f"stranger/{name}")(folder)


only_pickles = pickles_instead("model.safetensors")


def pickles_by_index(own: Path) -> None:
    only_pickles(own)
    index = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))


def embedded_adapter(own: Path) -> None:
    """Put an adapter into a model's folder, as transformers takes it."""
    pickles(own)
    named = f"stranger/model{own.parent.name}"
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["query"], "base_model_name_or_path": named}
    (own / "adapter_config.json").write_text(json.dumps(config))


CODE = content("stranger.py", "raise AssertionError('imported')")


def code(own: Path) -> None:
    CODE(own)
    kinds = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    entries("config.json", model_type="stranger", auto_map=dict.fromkeys(kinds, "stranger.Stranger"))(own)


def tokenizer_code(folder: Path) -> None:
    CODE(folder)
    entries("tokenizer_config.json", auto_map={"AutoTokenizer": ["stranger.Stranger", "stranger.Stranger"]})(folder)


def peft_config(folder: Path, method: str, **settings: Any) -> None:
    config = {"peft_type": method, "task_type": "SEQ_CLS", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def prompt(folder: Path) -> None:
    """Ask for first values from a pickle."""
    pickles(folder)
    first = {"prompt_tuning_init": "EXACT_SOURCE_TASK", "prompt_tuning_init_state_dict_path": f"{folder}/head.bin"}
    peft_config(folder, "MULTITASK_PROMPT_TUNING", num_virtual_tokens=4, **first)


def other_adapters(folder: Path) -> None:
    """Ask peft for a mixture of adapters that are pickles."""
    pickles(folder)
    entries("backbone.json", config_overrides={"use_cache": False})(folder)
    (folder / "own").mkdir()
    for file in ("adapter_config.json", "adapter_model.bin"):
        shutil.copy(folder / file, folder / "own")
    peft_config(folder, "XLORA", hidden_size=32, adapters={"a": str(folder / "own")})


def another_model(folder: Path) -> None:
    """Ask peft for a second model, which is a pickle."""
    base(only_pickles)(folder)
    named = "base_model_name_or_path"
    entries("backbone.json", **{named: json.loads((folder / "adapter_config.json").read_text())[named]})(folder)
    layers = {"target_modules": r"bert\.encoder\.layer\.\d+", "shadow_model": str(folder / "base")}
    peft_config(folder, "SHADOW", **layers)


RECORD, PEFT, TOKENIZER = "problem.json", "adapter_config.json", "tokenizer_config.json"
BACKBONE, QUANTIZATION, OWN_HEAD = "backbone.json", "quantization_config.json", "head.json"
RANDOM_BASE, TREE, METRICS = "random_base/config.json", "checkpoint.json", "metrics.json"
FIRST = WEIGHTS[ADAPTER]
KERNEL = "stranger/kernel"
DAMAGES: list[tuple[str, Callable[[bytearray], bytes | bytearray], str]] = [
    ("half of the weights", lambda d: d[: len(d) // 2], ""),
    ("no bytes", lambda d: b"", ""),
    ("a bit of the header", flipped(12), ""),
    ("a bit of the weights", flipped(-2), "not what was written (SHA256SUMS)"),
    ("shapes beyond the file", huge_shapes, ""),
]
NO_RECORDS = (("no JSON", "{"), ("a list", "[]"), ("deep", deep()), ("no text", b"\xff\xfe\x00"))

STRANGERS = [
    *[Stranger("untouched", lambda folder: None, kind=kind) for kind in (*EXPORTS, SCORED, CHECKPOINT)],
    # pickles
    *[Stranger("pickles beside", pickles, kind=kind) for kind in (*EXPORTS, CHECKPOINT)],
    *[Stranger("pickles instead", pickles_instead(WEIGHTS[kind]), said, kind)
      for kind, said in ((ADAPTER, "holds no "), (HEAD, ""), (FULL, ""), (RANDOM, "holds no "))],
    Stranger("a base of pickles", base(only_pickles), "weights in another format are pickles"),
    Stranger("a base whose index names pickles", base(pickles_by_index), "names other files than safetensors"),
    Stranger("a base of the hub", hub(lambda own: None)),
    Stranger("a base of the hub of pickles", hub(only_pickles), ""),
    Stranger("a base of the hub with an adapter", hub(embedded_adapter), "is an adapter"),
    Stranger("first values from a pickle", prompt, ""),
    # code
    Stranger("a base of its own", base(lambda own: None)),
    Stranger("a base with code", base(code), "brings its own code"),
    Stranger("a base with an adapter", base(embedded_adapter), "is an adapter"),
    Stranger("a kernel for the base", base(entries("config.json", attn_implementation=KERNEL)), "code from the hub"),
    Stranger("a kernel by override", entries(BACKBONE, config_overrides={"_attn_implementation": KERNEL}), "the hub"),
    Stranger("a method by override", entries(BACKBONE, config_overrides={"to_dict": 1}), ""),
    Stranger("trust asked for", entries(BACKBONE, trust_remote_code=True, auto_map={"AutoModel": "stranger.A"})),
    Stranger("a tokenizer with code", tokenizer_code),
    Stranger("a module to map", entries(PEFT, auto_mapping={"base_model_class": "A", "parent_library": "this"})),
    Stranger("a module for megatron", entries(PEFT, megatron_config={"a": 1}, megatron_core="this"), ""),
    Stranger("a head of a module", entries(OWN_HEAD, class_path="this.Head"), "import this first", HEAD),
    Stranger("a head of a file", entries(OWN_HEAD, class_path="stranger.Head"), "import stranger first", HEAD),
    Stranger("a head that is none", entries(OWN_HEAD, class_path="os.system"), "import os first", HEAD),
    Stranger("other adapters", other_adapters, "adapters makes peft load weights from elsewhere"),
    Stranger("another model", another_model, "shadow_model makes peft load weights from elsewhere"),
    # paths
    Stranger("a base that is not there", entries(BACKBONE, base_model_name_or_path="/no/such"), "cannot read a model"),
    Stranger("a base above", entries(BACKBONE, base_model_name_or_path="../.."), "cannot read a model"),
    Stranger("a base of a package", entries(BACKBONE, base_model_name_or_path="package:this"), "no package 'this'"),
    Stranger("a tokenizer elsewhere", entries(TOKENIZER, tokenizer_file="/etc/passwd", vocab_file="/etc/passwd")),
    # links and special files
    *[Stranger(f"a link to {to}", link(file, to), "is a symbolic link")
      for file, to in ((RECORD, "/etc/passwd"), (FIRST, "/dev/zero"), ("tokenizer.json", "/etc/passwd"), ("x", ".."))],
    Stranger("a fifo", fifo("tokenizer.json"), "neither a file nor a folder"),
    Stranger("a fifo for weights", fifo(FIRST), "neither a file nor a folder"),
    # damaged weights
    Stranger("a header of 10 GB", changed_bytes(lambda d: struct.pack("<Q", TEN_GB) + d[8:]), "damaged"),
    *[Stranger(name, changed_bytes(change), said) for name, change, said in DAMAGES],
    *[Stranger(name, changed_bytes(change, kind), said, kind)  # each kind of weights, read in its own way
      for kind in (HEAD, FULL, RANDOM) for name, change, said in DAMAGES[2:4]],
    Stranger("no digests, as earlier versions wrote none", remove("SHA256SUMS")),
    # records
    *[Stranger(f"{RECORD}: {name}", content(RECORD, text), RECORD) for name, text in NO_RECORDS],
    *[Stranger(f"{file}: {name}", content(file, text), file, HEAD if file == OWN_HEAD else ADAPTER)
      for file in (PEFT, BACKBONE, QUANTIZATION, OWN_HEAD) for name, text in NO_RECORDS[1:3]],  # one reader reads all
    *[Stranger(f"{TOKENIZER}: {name}", content(TOKENIZER, text), "") for name, text in NO_RECORDS],
    *[Stranger(f"{file}: 10 GB", sparse(file), "too many for a file") for file in (RECORD, PEFT, "tokenizer.json")],
    Stranger("a record of 60 MB", content(RECORD, " " * (60 << 20)), "too many for a record"),
    Stranger("a config of 60 MB for the base", base(content("config.json", one_text(60))), "for a record"),
    Stranger("an empty record", content(RECORD, "{}"), ""),
    Stranger("labels that are none", entries(RECORD, label_names=5), ""),
    Stranger("a problem that is none", entries(RECORD, problem_type="stranger"), "needs one of"),
    Stranger("a dtype that is none", entries(BACKBONE, dtype="load"), ""),
    Stranger("a base that is a number", entries(BACKBONE, base_model_name_or_path=7), ""),
    Stranger("a method that is none", entries(PEFT, peft_type="STRANGER"), "not what peftlit exports"),
    Stranger("another quantization", entries(QUANTIZATION, quant_method="gptq")),
    Stranger("a quantization of texts", entries(QUANTIZATION, load_in_4bit="yes"), ""),
    Stranger("a number type that is none", entries(QUANTIZATION, bnb_4bit_compute_dtype="load"), ""),
    Stranger("a tokenizer that is none", entries(TOKENIZER, tokenizer_class="Trainer"), ""),
    Stranger("a vocabulary that is none", content("tokenizer.json", "{}"), ""),
    Stranger("settings that are none", entries(OWN_HEAD, init_args=[1]), "", HEAD),
    # sizes
    Stranger("a rank of a milliard", entries(PEFT, r=10**9), "far more than its files"),
    Stranger("a head of a milliard", entries(OWN_HEAD, init_args={"hidden_sizes": [10**9]}), "far more than", HEAD),
    Stranger("words of a milliard", entries(BACKBONE, config_overrides={"vocab_size": 10**9}), "far more than"),
    Stranger("a random base beyond the machine", entries(RANDOM_BASE, vocab_size=10**12), "far more than", RANDOM),
    Stranger("a milliard of layers", entries(RANDOM_BASE, num_hidden_layers=10**9), "layers", RANDOM),
    Stranger("a milliard of copied layers", entries(PEFT, layer_replication=[[0, 10**9]]), "layers"),
    # a run folder that is tested
    *[Stranger(name, inside(spoil), said, SCORED) for name, spoil, said in (
        ("pickles beside", pickles, None),
        ("pickles instead", pickles_instead(FIRST), "holds no "),
        ("a link", link(FIRST, "/dev/zero"), "is a symbolic link"),
        ("a link for a record", link(RECORD, "/etc/passwd"), "is a symbolic link"),
        ("a fifo", fifo(FIRST), "neither a file nor a folder"),
        ("a record of 10 GB", sparse(RECORD), "too many for a file"),
        ("an empty record", content(RECORD, "{}"), None),
    )],
    *[Stranger(name, inside(changed_bytes(change)), said, SCORED) for name, change, said in DAMAGES[2:4]],
    *[Stranger(f"{METRICS}: {name}", content(METRICS, text), METRICS, SCORED) for name, text in NO_RECORDS],
    Stranger(f"{METRICS}: 10 GB", sparse(METRICS), "too many for a record", SCORED),
    *[Stranger(f"{file} leads elsewhere", link(file, "../elsewhere"), "is no plain file", SCORED)
      for file in (METRICS, "predictions.csv", "confusion_matrix.png")],
    Stranger("a fifo for a picture", fifo("confusion_matrix.png"), "is no plain file", SCORED),
    # a checkpoint
    *[Stranger(name, spoil, said, CHECKPOINT) for name, spoil, said in (
        ("a pickle", a_pickle, "no peftlit checkpoint"),
        ("no tree", remove(TREE), "no peftlit checkpoint"),
        ("a link", link(TREE, "/etc/passwd"), "is a symbolic link"),
        ("a link for tensors", tensors(lambda file: link(file, "/dev/zero")), "is a symbolic link"),
        ("a fifo", fifo(TREE), "neither a file nor a folder"),
        ("a fifo for tensors", tensors(fifo), "neither a file nor a folder"),
        ("10 GB of JSON", sparse(TREE), "too many for a file"),
        ("70 MB of JSON", content(TREE, one_text(70)), "too many for a file"),
        ("deep JSON", content(TREE, deep()), "is damaged"),
        ("no tensors", tensors(lambda file: content(file, b"")), "checksum"),
        ("another digest", entries(TREE, tensors_sha256="../../tensors"), "is damaged"),
        ("a value of another kind", edited(lambda tree: tree.update(epoch={"dtype": "load"})), "cannot read an entry"),
        ("no loops", edited(lambda tree: tree.pop("loops")), "holds no loops"),
        ("empty loops", edited(lambda tree: tree.update(loops={"dict": []})), ""),
        ("loops that are none", edited(lambda tree: tree.update(loops=5)), ""),
        ("no callbacks", edited(lambda tree: tree.update(callbacks={"dict": []})), ""),
        ("callbacks that are none", edited(lambda tree: tree.update(callbacks=[7])), ""),
        ("no run", edited(lambda tree: tree.update(peftlit={"dict": []})), ""),
        ("an optimizer that is none", edited(lambda tree: tree.update(optimizer_states=[{"dict": []}])), ""),
    )],
]  # fmt: skip

FAST = [
    ("untouched", ADAPTER), ("pickles instead", ADAPTER), ("a head of a module", HEAD), ("a fifo", ADAPTER),
    ("a link to /etc/passwd", ADAPTER), ("a bit of the weights", ADAPTER), ("problem.json: 10 GB", ADAPTER),
    ("a rank of a milliard", ADAPTER), ("problem.json: deep", ADAPTER), ("other adapters", ADAPTER),
]  # fmt: skip
"""One of each sort, for a run that has little time."""

BROKEN = {
    "pickles": ("pickles instead", ADAPTER, "unpickles"),
    "base pickles": ("a base whose index names pickles", ADAPTER, "opens .*bin"),
    "embedded": ("a base of the hub with an adapter", ADAPTER, "opens .*bin"),
    "imports": ("a head of a module", HEAD, "execs .*this.py"),
    "fetching": ("other adapters", ADAPTER, "opens .*adapter_model.bin"),
    "first values": ("first values from a pickle", ADAPTER, "opens .*bin"),
    "code": ("a tokenizer with code", ADAPTER, "opens .*stranger.py"),
    "links": ("a link to /etc/passwd", ADAPTER, "opens /etc/passwd"),
    "files": ("tokenizer.json: 10 GB", ADAPTER, "too many"),
    "records": ("a config of 60 MB for the base", ADAPTER, "MiB"),
    "digests": ("a bit of the weights", ADAPTER, "answered"),
    "run links": ("confusion_matrix.png leads elsewhere", SCORED, "opens .*elsewhere"),
    "sizes": ("a rank of a milliard", ADAPTER, "far more"),
    "layers": ("a milliard of copied layers", ADAPTER, "layers"),
    "checkpoint pickles": ("a pickle", CHECKPOINT, "unpickles"),
    "checkpoint links": ("a link", CHECKPOINT, "opens /etc/passwd"),
    "checkpoint bounds": ("70 MB of JSON", CHECKPOINT, "MiB"),
}
"""For each guard that is taken away: the stranger who then gets through, and what the contract says of it."""
