"""What a run of a language model leaves behind, and says."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_its_last_line_names_the_files_that_are_there(settings, toy_data, model_folder, write_config, peftlit) -> None:
    model = settings["model"]
    model["class_path"] = "CausalLM"
    model["init_args"]["backbone"] = {"name_or_path": str(model_folder("llama"))}
    model["init_args"]["adapter"]["init_args"]["target_modules"] = ["q_proj", "v_proj"]
    files = {f"{split}_file": str(toy_data / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings["data"] = {"class_path": "TextLines", "init_args": {**files, "batch_size": 8, "max_length": 32}}
    settings["trainer"] = {"max_steps": 4, "accelerator": "cpu"}
    _, err = peftlit.ok("fit", "--config", write_config(settings), "--run_dir", "run")
    (line,) = [line for line in err.splitlines() if "run folder: " in line]
    assert line.endswith("run folder: run (adapter/, metrics.json, pictures)")
