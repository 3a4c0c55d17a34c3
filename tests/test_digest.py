from __future__ import annotations

import hashlib

import torch

from peftlit.digest import commit_of, sha256_of_file, sha256_of_tensors, weights_sha256

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def test_a_file_has_the_digest_that_sha256sum_gives(tmp_path):
    content = b"x" * (2 * 2**20 + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_tensors_have_a_digest_of_name_shape_dtype_and_value_alone():
    assert sha256_of_tensors(TENSORS) == sha256_of_tensors(dict(reversed(TENSORS.items())))
    view, a = torch.arange(6.0).reshape(3, 2).t(), TENSORS["a"]
    assert sha256_of_tensors({"a": view}) == sha256_of_tensors({"a": view.contiguous()})
    for change in ({"a": a + 1e-6}, {"a": a.reshape(3, 2)}, {"a": a.double()}, {"c": torch.zeros(0)}):
        assert sha256_of_tensors(TENSORS | change) != sha256_of_tensors(TENSORS), change
    for dtype in (torch.bfloat16, torch.float16, torch.uint8, torch.bool):
        assert len(sha256_of_tensors({"a": torch.ones(3, dtype=dtype), "scalar": torch.ones((), dtype=dtype)})) == 64


def test_weights_are_named_by_the_content_of_their_files(tmp_path):
    for folder, content in (("a", b"weights"), ("b", b"weights"), ("c", b"others")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(content)
        (tmp_path / folder / "README.md").write_text(folder)
        (tmp_path / folder / "consolidated.safetensors").write_text(folder)  # not what transformers loads
    one, same, other = (weights_sha256(str(tmp_path / folder), None) for folder in "abc")
    assert one == same != other
    (tmp_path / "a/model.safetensors").write_bytes(b"rewritten")
    assert weights_sha256(str(tmp_path / "a"), None) != one


def test_random_weights_and_those_that_are_not_here_have_no_digest(tmp_path):
    assert weights_sha256(None, None) is None
    assert weights_sha256("nobody/no-such-model", "0" * 40) is None
    assert weights_sha256(str(tmp_path), None) is None  # as in the hub's cache before weights are loaded


def test_files_of_the_hub_have_the_digest_that_their_names_say(tmp_path):
    digest = hashlib.sha256(b"weights").hexdigest()
    for folder, name in (("hub", digest), ("local", "blob")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"not read" if folder == "hub" else b"weights")
        (tmp_path / folder / "model.safetensors").symlink_to(name)
    assert weights_sha256(str(tmp_path / "hub"), None) == weights_sha256(str(tmp_path / "local"), None)


def test_a_hub_models_commit_is_that_of_the_files_in_the_cache(tmp_path, monkeypatch):
    cache, commit = tmp_path / "models--someone--tiny", "ab" * 20
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert commit_of("someone/tiny", None) == commit_of("someone/tiny", commit) == commit
    assert commit_of("someone/absent", "v1") == "v1"
    assert commit_of(str(tmp_path), None) is commit_of(None, None) is None
