"""Folders and tables of files as data sets: layouts, masks, labels, errors, and runs that are interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from polyscore import media
from polyscore.data import folder as folder_module
from polyscore.data.folder import prepare_folder
from polyscore.data.loader import FolderData
from polyscore.errors import DataError

IMAGE = {"kind": "image", "shape": [1, 4, 4]}
SPEECH = {"kind": "audio", "shape": [100], "rate": 8000}
BOTH = {"image": IMAGE, "speech": SPEECH}


def picture(k: int) -> torch.Tensor:
    return torch.full((1, 4, 4), 10.0 * k / 255)


def sound(k: int) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * (k + 1) * torch.arange(100) / 100)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Samples 0 to 6: pictures of all but 2, sounds of all but 5, labels of all but 0."""
    root = tmp_path / "data"
    for k in range(7):
        if k != 2:
            media.write(root / "image" / "set" / f"{k:03d}.png", picture(k), "image")
        if k != 5:
            media.write(root / "speech" / "set" / f"{k:03d}.wav", sound(k), "audio", rate=8000)
    rows = [f"set/{k:03d},{'even' if k % 2 == 0 else 'odd'}" for k in range(1, 7)]
    (root / "labels.csv").write_text("name,label\n" + "\n".join(rows) + "\n")
    return root


def test_a_folder_becomes_batches(data: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    prepared = prepare_folder(data, tmp_path / "out", BOTH, shard_size=3, progress=lambda a, b: done.append((a, b)))
    assert done == [(3, 7), (6, 7), (7, 7)]
    assert prepared.names == [f"set/{k:03d}" for k in range(7)]
    assert (prepared.classes, prepared.errors) == (["even", "odd"], [])
    batch = prepared.batch(range(7))
    assert batch["masks"]["image"].tolist() == [k != 2 for k in range(7)]
    assert batch["masks"]["speech"].tolist() == [k != 5 for k in range(7)]
    assert batch["labels"].tolist() == [-1, 1, 0, 1, 0, 1, 0]
    for k in range(7):
        assert torch.equal(batch["data"]["image"][k], torch.zeros(1, 4, 4) if k == 2 else picture(k))
        assert (batch["data"]["speech"][k] - (0 if k == 5 else sound(k))).abs().max() < 1e-4


def test_batches_in_order_and_shuffled(data: Path, tmp_path: Path) -> None:
    prepared = prepare_folder(data, tmp_path / "out", BOTH, shard_size=3)
    sizes = [len(b["labels"]) for b in prepared.batches(3)]
    assert sizes == [3, 3, 1]
    assert [len(b["labels"]) for b in prepared.batches(3, drop_last=True)] == [3, 3]

    def order(seed: int, epoch: int) -> list[float]:
        return [float(x) for b in prepared.batches(2, seed=seed, epoch=epoch) for x in b["data"]["image"][:, 0, 0, 0]]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert sorted(order(1, 0)) == sorted(order(2, 3))


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_tables(data: Path, tmp_path: Path, format_: str) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "b", "image": "image/set/001.png", "speech": "speech/set/001.wav", "label": 4},
        {"name": "a", "image": "image/set/003.png", "speech": "", "label": 2},
    ]
    table = data / f"table.{format_}"
    lines = (
        [json.dumps(r) for r in rows]
        if format_ == "jsonl"
        else ["name,image,speech,label", *(",".join(map(str, r.values())) for r in rows)]
    )
    table.write_text("\n".join(lines))
    prepared = prepare_folder(table, tmp_path / "out", BOTH)
    assert (prepared.names, prepared.classes) == (["a", "b"], [])
    batch = prepared.batch([0, 1])
    assert batch["labels"].tolist() == [2, 4]
    assert batch["masks"]["speech"].tolist() == [False, True]


def test_numbers_inside_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text('{"text": [1, 2], "v": [0.5]}\n{"text": [3, 9]}\n{"text": [3, 4], "v": "no.json"}\n')
    specs = {"text": {"kind": "tokens", "shape": [2], "vocabulary": 5}, "v": {"kind": "vector", "shape": [1]}}
    prepared = prepare_folder(table, tmp_path / "out", specs)
    assert prepared.names == ["00000000", "00000002"]
    batch = prepared.batch([0, 1])
    assert batch["data"]["text"].tolist() == [[1, 2], [3, 4]]
    assert batch["data"]["text"].dtype == torch.int64
    assert batch["masks"]["v"].tolist() == [True, False]
    assert batch["labels"] is None
    assert [e["name"] for e in prepared.errors] == ["00000001", "00000002"]


def test_bad_files_are_listed_and_masked(data: Path, tmp_path: Path) -> None:
    (data / "image" / "set" / "001.png").write_bytes(b"broken")
    media.write(data / "speech" / "set" / "005.wav", torch.zeros(100), "audio", rate=8000)
    prepared = prepare_folder(data, tmp_path / "out", BOTH)
    assert [(e["name"], e["modality"]) for e in prepared.errors] == [("set/001", "image"), ("set/005", "speech")]
    assert "001.png" in prepared.errors[0]["error"]
    assert prepared.batch([1])["masks"]["image"].tolist() == [False]
    with pytest.raises(DataError, match=r"001\.png"):
        prepare_folder(data, tmp_path / "strict", BOTH, strict=True)


def test_an_interrupted_run_continues_to_the_same_bytes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_folder(data, tmp_path / "whole", BOTH, shard_size=2)
    reads: list[object] = []

    def counting(source: object, *args: Any) -> torch.Tensor:
        reads.append(source)
        if len(reads) == 6:
            raise KeyboardInterrupt
        return original(source, *args)

    original = folder_module._read_one
    monkeypatch.setattr(folder_module, "_read_one", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(data, tmp_path / "out", BOTH, shard_size=2)
    with pytest.raises(DataError, match="interrupted"):
        FolderData(tmp_path / "out")
    prepare_folder(data, tmp_path / "out", BOTH, shard_size=2)
    assert len(reads) == 6 + 8  # shard 0 (4 files) is not read again; the interrupted one is
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()
    }
    prepare_folder(data, tmp_path / "out", BOTH, shard_size=2)
    assert len(reads) == 14


def test_changed_files_options_and_shards_start_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_folder(data, out, BOTH, shard_size=2)
    prepare_folder(data, out, BOTH, shard_size=4)
    assert sorted(f.name for f in out.iterdir()) == ["manifest.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    media.write(data / "image" / "set" / "001.png", picture(20), "image")
    assert torch.equal(prepare_folder(data, out, BOTH, shard_size=4).batch([1])["data"]["image"][0], picture(20))
    shard = out / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(DataError, match="truncated or changed"):
        FolderData(out)
    assert len(prepare_folder(data, out, BOTH, shard_size=4)) == 7


def test_mistakes_end_in_one_line(data: Path, tmp_path: Path) -> None:
    (data / "image" / "twice.png").write_bytes(b"x")
    (data / "image" / "twice.jpg").write_bytes(b"x")
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "columns.csv").write_text("picture\nx.png\n")
    (tmp_path / "doubles.csv").write_text("name,image\na,x.png\na,y.png\n")
    (tmp_path / "broken.csv").write_text("image\nx.png\ny.png\n")
    (tmp_path / "empty.csv").write_text("image\n")
    only = {"image": IMAGE}
    cases = [
        (tmp_path / "absent", only, "nothing there"),
        (data, only, "'twice'"),
        (data, {"smell": IMAGE}, "a folder 'smell', found image, speech"),
        (data, {"image": {"kind": "smell", "shape": [1]}}, "expected a kind"),
        (data, {"image": {"kind": "image"}}, "expected a shape"),
        (tmp_path / "bad.jsonl", only, "table in UTF-8"),
        (tmp_path / "columns.csv", only, "a column 'image', found picture"),
        (tmp_path / "doubles.csv", only, "'a' twice"),
        (tmp_path / "broken.csv", only, "found none in 2 samples .the first error: .*nothing there"),
        (tmp_path / "empty.csv", only, "expected samples"),
    ]
    for source, specs, message in cases:
        with pytest.raises(DataError, match=message) as error:
            prepare_folder(source, tmp_path / "out", specs)
        assert "\n" not in str(error.value)
    for text, message in (("{", "expected JSON"), ("[]", "polyscore manifest")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=message):
            FolderData(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        FolderData(tmp_path / "absent")
