"""Compare label scores with those that lm-evaluation-harness gives the same exported adapter.

The run is a causal language model with labels, ``model.scoring: sequence``; its label's score is the log-likelihood of
the label's tokens, which is what the harness calls ``loglikelihood`` of a continuation.

    pip install -c constraints.txt lm-eval    # beside peftlit, in an environment of its own
    python tools/lm_eval_check.py --run_dir RUN --file test.jsonl [--rows 50]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import peftlit
from peftlit.backbone.model_source import resolve
from peftlit.export.classifier import Classifier
from peftlit.modules import CausalLM


def ours(classifier: Classifier, texts: list[str]) -> torch.Tensor:
    """Return the score of each label of each text, (rows, labels)."""
    assert classifier.prompts is not None
    batches = [texts[i : i + 16] for i in range(0, len(texts), 16)]
    asked = [classifier.prompts.batch(batch, range(len(batch))) for batch in batches]
    return torch.cat([classifier.logits(batch) for batch in asked])


def of_the_harness(folder: Path, prompts: list[str], words: list[str]) -> torch.Tensor:
    """Return the log-likelihood of each word after each prompt, (rows, labels)."""
    record = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = resolve(record["base_model_name_or_path"])
    model = HFLM(pretrained=base, peft=str(folder), dtype="float32", device="cpu", batch_size=16)
    asked = [(prompt, word) for prompt in prompts for word in words]
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(asked)]
    found = [likelihood for likelihood, _ in model.loglikelihood(requests)]
    return torch.tensor(found).view(len(prompts), len(words))


def main() -> None:
    """Print the largest difference, and how many rows get another label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True, help="rows with a text")
    parser.add_argument("--rows", type=int, default=50)
    arguments = parser.parse_args()
    lines = arguments.file.read_text(encoding="utf-8").split("\n")[: arguments.rows]
    texts = [json.loads(line)["text"] for line in lines]
    classifier = peftlit.load(arguments.run_dir, device="cpu")
    assert isinstance(classifier, Classifier)
    assert isinstance(classifier.module, CausalLM)
    assert classifier.prompts is not None
    scoring, classifier.module.scoring = classifier.module.scoring, "sequence"  # a first token's logit is no likelihood
    prompts = classifier.prompts
    if prompts.prompt.is_chat(classifier.tokenizer):
        parser.error("--run_dir: puts texts as chats; the harness is asked plain prompts here")
    first = ours(classifier, texts)
    second = of_the_harness(arguments.run_dir / "adapter", [prompts.prompt.fill(text) for text in texts], prompts.words)
    differing = int((first.argmax(1) != second.argmax(1)).sum())
    print(f"{len(texts)} texts, {second.shape[1]} labels; the run was trained with scoring {scoring}")
    print(f"scores from {float(second.min()):.4f} to {float(second.max()):.4f}")
    print(f"largest difference {float((first - second).abs().max()):.2e}; another label in {differing} texts")


if __name__ == "__main__":
    main()
