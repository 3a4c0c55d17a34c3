"""Score TF-IDF + logistic regression on the very splits of a finished run, beside the run's own test score.

python tools/tfidf_baseline.py --run_dir runs/001
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

from peftlit import data


def main() -> None:
    """Print both scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", type=Path, required=True)
    folder = parser.parse_args().run_dir
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    splits = getattr(data, config["class_path"].rsplit(".", 1)[-1])(**config["init_args"]).read()
    train, validation, test = (splits[name] for name in ("train", "validation", "test"))

    def fit(strength: float, words: int) -> tuple[float, object]:
        features = TfidfVectorizer(ngram_range=(1, words), sublinear_tf=True)
        model = make_pipeline(features, LogisticRegression(C=strength, max_iter=5000))
        model.fit(train["text"][:], train["label"][:])
        predicted = model.predict(validation["text"][:])
        return float(f1_score(validation["label"][:], predicted, average="macro")), model

    # the baseline gets its own tuning on validation
    trials = [fit(strength, words) for strength in (0.3, 1, 3, 10, 30) for words in (1, 2)]
    _, best = max(trials, key=lambda t: t[0])
    predicted = best.predict(test["text"][:])  # type: ignore[attr-defined]
    own = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    labels = test["label"][:]
    print(f"test rows: {len(labels)}")
    print(f"TF-IDF + LR  macro-F1 {f1_score(labels, predicted, average='macro'):.4f}", end="  ")
    print(f"accuracy {accuracy_score(labels, predicted):.4f}")
    print(f"this run     macro-F1 {own['f1']:.4f}  accuracy {own['accuracy']:.4f}")


if __name__ == "__main__":
    main()
