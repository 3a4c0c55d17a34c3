"""The history has Hugging Face's shape and one entry per step that is due."""

from __future__ import annotations

import json


def test_the_history_of_a_run_is_whole_and_in_order(finished_run) -> None:
    folder, _ = finished_run
    state = json.loads((folder / "adapter/trainer_state.json").read_text(encoding="utf-8"))
    steps = [entry["step"] for entry in state["log_history"]]
    assert steps == sorted(steps)
    trained = [entry for entry in state["log_history"] if "loss" in entry]
    assert all({"loss", "learning_rate", "epoch", "step"} <= entry.keys() for entry in trained)
    assert [entry["step"] for entry in trained] == list(range(2, 19, 2))  # every log_every_n_steps, each once
    assert [e["epoch"] for e in state["log_history"] if "eval_loss" in e] == [1.0, 2.0, 3.0]
    assert state["num_train_epochs"] == 3
    assert state["max_steps"] == state["global_step"] == 18
    assert state["train_batch_size"] == 8
    assert state["best_global_step"] in (6, 12, 18)
    best = max(entry["eval_f1"] for entry in state["log_history"] if "eval_f1" in entry)
    assert state["best_metric"] == best
    assert state["best_model_checkpoint"].startswith("checkpoints/epoch=")
    assert (folder / state["best_model_checkpoint"]).is_dir()
    assert trained[-1]["learning_rate"] == 0.0  # the cosine ends at the last optimizer step
