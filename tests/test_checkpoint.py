"""Checkpoints: whole or not at all; truncated, foreign, changed or wrong ones end in one line that names the file."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from polyscore.checkpoint import load_module, load_state, load_tensors, read_json, save_module, save_tensors
from polyscore.codecs.base import Codec
from polyscore.denoisers import Denoiser
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.networks.mlp import JointDenoiser


def model(width: int = 16, seed: int = 0) -> JointDenoiser:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return JointDenoiser({"image": (3,), "speech": (2,)}, width=width, depth=1, hidden=8, embed=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_module(model(), tmp_path / "model", meta={"reached": 0.9})


@contextlib.contextmanager
def full_disk(after: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes: the kernel itself refuses the write."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_a_module_comes_back(saved: Path) -> None:
    found = load_module(saved, Denoiser)
    assert same(found, model())
    assert not found.training
    assert found._meta == {"reached": 0.9}
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model.json", "model.safetensors"]
    assert same(load_module(saved.with_suffix(".json")), model())


def test_half_precision_on_disk_float32_in_memory(tmp_path: Path) -> None:
    save_module(model(), tmp_path / "model", dtype=torch.float16)
    assert load_tensors(tmp_path / "model.safetensors")["network.stem.weight"].dtype == torch.float16
    found = load_module(tmp_path / "model")
    assert found.network.stem.weight.dtype == torch.float32
    torch.testing.assert_close(found.network.stem.weight, model().network.stem.weight, atol=1e-3, rtol=1e-3)


def damage(saved: Path, kind: str) -> None:
    header, tensors = saved.with_suffix(".json"), saved.with_suffix(".safetensors")
    data, told = tensors.read_bytes(), json.loads(header.read_text())
    match kind:
        case "no json":
            header.unlink()
        case "no tensors":
            tensors.unlink()
        case "truncated":
            tensors.write_bytes(data[: len(data) // 2])
        case "changed":
            tensors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "truncated json":
            header.write_text(header.read_text()[:50])
        case "binary json":
            header.write_bytes(b"\xff\xfe\x00\x01")
        case "deep json":
            header.write_text("[" * 100000)
        case "a list":
            header.write_text("[1, 2]")
        case "another format":
            header.write_text(json.dumps(told | {"format": 99}))
        case "no spec":
            header.write_text(json.dumps({"format": 1}))
        case "not a module":
            header.write_text(json.dumps(told | {"spec": {"class": "VPSDE"}}))
        case "other shapes":
            header.write_text(json.dumps(told | {"spec": told["spec"] | {"width": 24}}))
        case "folder":
            header.unlink()
            header.mkdir()
        case "foreign tensors":
            told["sha256"] = save_tensors({"a": torch.zeros(2)}, tensors)
            header.write_text(json.dumps(told))
        case "not safetensors":
            tensors.write_bytes(b"not a tensor file")
            header.write_text(json.dumps({k: v for k, v in told.items() if k != "sha256"}))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no json", r"model.json: cannot be read \(No such file"),
        ("no tensors", r"model.safetensors: cannot be read \(No such file"),
        ("truncated", r"model.safetensors: truncated or changed: expected sha256 \w+..., found"),
        ("changed", r"model.safetensors: truncated or changed"),
        ("truncated json", r"model.json: not JSON"),
        ("binary json", r"model.json: not JSON"),
        ("deep json", r"model.json: not JSON"),
        ("a list", r"model.json: not a polyscore checkpoint"),
        ("another format", r"model.json: not a polyscore checkpoint \(expected format 1"),
        ("no spec", r"model.json: not a polyscore checkpoint"),
        ("not a module", r"model.json: expected a Denoiser, found VPSDE"),
        ("other shapes", r"model.safetensors: tensor 'network.stem.weight' has shape \(16, 5\), expected \(24, 5\)"),
        ("folder", r"model.json: cannot be read \(Is a directory"),
        ("foreign tensors", r"model.safetensors: tensor '[\w.]+' of JointDenoiser is missing"),
        ("not safetensors", r"model.safetensors: not a safetensors file"),
    ],
)
def test_damage_ends_in_one_line_that_names_the_file(saved: Path, kind: str, message: str) -> None:
    damage(saved, kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_module(saved, Denoiser)
    assert "\n" not in str(caught.value)


def test_another_kind_of_module_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a Codec, found JointDenoiser"):
        load_module(saved, Codec)


def test_unknown_tensors_are_refused() -> None:
    state = model().state_dict()
    with pytest.raises(CheckpointError, match=r"here: unknown tensor 'more' \(1 in all\) for JointDenoiser"):
        load_state(model(), state | {"more": torch.zeros(1)}, "here")


@pytest.mark.parametrize("room", [0, 500, 3000])
def test_a_full_disk_leaves_the_older_checkpoint_whole(saved: Path, room: int) -> None:
    """The header is smaller than 3000 bytes and the tensors are larger: whichever fails, both old files stay."""
    with full_disk(room), pytest.raises(PolyscoreError, match=r"cannot write .*: File too large") as caught:
        save_module(model(64, seed=1), saved)
    assert "\n" not in str(caught.value)
    assert same(load_module(saved), model())
    assert len(list(saved.parent.iterdir())) == 2


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with full_disk(500), pytest.raises(PolyscoreError, match="cannot write"):
        save_module(model(), tmp_path / "new" / "model")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_module_that_cannot_be_described_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot store a Linear"):
        save_module(torch.nn.Linear(2, 2), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_tensors_and_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    digest = save_tensors({"a": torch.arange(6.0).reshape(2, 3).T}, path, {"seed": "3"})
    assert torch.equal(load_tensors(path, digest)["a"], torch.arange(6.0).reshape(2, 3).T)
    with pytest.raises(CheckpointError, match="expected sha256 000000000000"):
        load_tensors(path, "0" * 64)


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
