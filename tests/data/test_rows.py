"""What data sets of rows share: masks beside data and labels, and files that `prepare_folder` reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from polyscore import media
from polyscore.data import dance, talking
from polyscore.data.folder import prepare_folder
from polyscore.data.loader import missing
from polyscore.data.rows import BLOCK, Rows, at_least, write_rows
from polyscore.errors import DataError

KINDS = {"image": {"kind": "image"}, "sound": {"kind": "audio", "rate": 4000}, "table": {"kind": "vector"}}
SPECS = {
    "image": {"kind": "image", "shape": [1, 4, 4]},
    "sound": {"kind": "audio", "rate": 4000, "shape": [400]},
    "table": {"kind": "vector", "shape": [2]},
}


@dataclass(frozen=True)
class Things(Rows):
    image: Tensor
    sound: Tensor
    table: Tensor
    labels: Tensor | None = None
    present: dict[str, Tensor] = field(default_factory=dict)

    columns = ("image", "sound", "table")


@pytest.fixture
def things():
    """Four rows; row 2 has no sound and row 1 nothing but its sound."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4, 1, 4, 4), generator=draw) / 255
    sound = torch.rand(4, 400, generator=draw) - 0.5
    alone = torch.tensor([True, False, True, True])
    present = {"image": alone, "table": alone, "sound": torch.tensor([True, True, False, True])}
    return Things(pixels, sound, torch.rand(4, 2, generator=draw), torch.tensor([3, 1, 2, 1]), present)


def test_rows_tell_what_they_lack(things):
    assert len(things) == 4 and list(things.modalities()) == ["image", "sound", "table"]
    assert things.modalities(slice(1, 3))["sound"].equal(things.sound[1:3])
    assert {name: mask.tolist() for name, mask in things.masks().items()} == {
        "image": [True, False, True, True], "sound": [True, True, False, True], "table": [True, False, True, True]}  # fmt: skip
    assert list(missing(things.masks())) == ["image_missing", "sound_missing", "table_missing"]
    whole = Things(things.image, things.sound, things.table)
    assert whole.labels is None and all(mask.all() and len(mask) == 4 for mask in whole.masks().values())
    assert [sorted(row) for row in things.each()][1:3] == [["sound"], ["image", "table"]]
    assert len(list(things.each(3))) == 3 and len(list(things.each(9))) == 4


def test_rows_come_one_by_one_over_blocks():
    numbers = torch.arange(2 * BLOCK + 3.0)[:, None]
    many = Things(numbers, numbers, numbers)
    assert [float(row["table"]) for row in many.each()] == numbers[:, 0].tolist()
    assert [float(row["table"]) for row in many.each(BLOCK + 1)] == numbers[: BLOCK + 1, 0].tolist()


def test_files_give_the_rows_back(things, tmp_path):
    out, seen = tmp_path / "files", []
    rows = zip("abcd", things.each(), ["x, y", "z", None, "z"], strict=True)
    assert write_rows(out, KINDS, rows, len(things), lambda done, total: seen.append((done, total))) == 4
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] and not (out / "image" / "b.png").exists()
    assert (out / "labels.csv").read_text() == 'name,label\na,"x, y"\nb,z\nd,z\n'
    data = prepare_folder(out, tmp_path / "shards", SPECS)
    batch = data.batch(range(4))
    assert data.classes == ["x, y", "z"] and batch["labels"].tolist() == [0, 1, -1, 1]
    for name, x in things.modalities().items():
        mask = things.masks()[name]
        assert batch["masks"][name].equal(mask)
        torch.testing.assert_close(batch["data"][name][mask], x[mask], atol=1e-4, rtol=0)


def test_an_interrupted_writing_leaves_whole_files(things, tmp_path):
    def rows():
        for place, values in enumerate(things.each()):
            if place == 3:
                raise KeyboardInterrupt
            yield str(place), values, 0

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path, KINDS, rows(), 4)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert names == ["image/0.png", "image/2.png", "sound/0.wav", "sound/1.wav", "table/0.json", "table/2.json"]
    assert media.read(tmp_path / "table" / "2.json", "vector").equal(things.table[2])


def test_bad_values_and_numbers_end_in_one_line(things, tmp_path):
    with pytest.raises(DataError, match=r"image/a\.png: expected an image of shape"):
        write_rows(tmp_path, KINDS, [("a", {"image": torch.zeros(2, 4, 4)}, None)], 1)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    at_least(1, limit=None, size=1)
    with pytest.raises(DataError, match=r"^limit: expected at least 1, found 0$"):
        at_least(1, size=4, limit=0)


def test_clips_are_rows():
    n = torch.arange(2)
    talk = talking.Clips(torch.zeros(2, 16, 28, 28), torch.zeros(2, 16000), n, n.float())
    assert len(talk) == 2 and set(talk.masks()) == {"video", "sound"}
    dances = [dance.Clips(torch.zeros(2, 9), torch.zeros(2, 3, 4), n, n, n.float(), visual) for visual in (None, torch.zeros(2, 8, 144))]
    assert [list(clips.modalities()) for clips in dances] == [["waves", "motion"], ["waves", "motion", "visual"]]
    assert [len(clips) for clips in dances] == [2, 2]
