"""AIST++ and TikTok in the published lists' format, on small made-up files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polyscore.data.segments import AIST_GENRES, Segments, aist_name
from polyscore.errors import DataError
from polyscore.media import write_audio

AIST = ("gPO_sBM_c01_d11_mPO1_ch02_seg1", "gJB_sFM_c01_d09_mJB5_ch02_seg3", "gBR_sBM_c01_d04_mBR0_ch02_seg4")
TIKTOK = ("000007_7_188_seg3", "000054_273_11_seg13")


def lists(folder: Path, dataset: str, names: tuple[str, ...], start: str, end: str = "") -> None:
    """Lists as published, and the files they name."""
    for part, suffix in (("motion", "npy"), ("audio", "wav")):
        lines = [f"{start}/{part}_s2/{'test/' if dataset == 'aist' else ''}{name}.{suffix}" for name in names]
        (folder / f"{dataset}_{part}_test_segment{end}.txt").write_text("\n".join(lines) + "\n")
    inner = Path("test") if dataset == "aist" else Path()
    for i, name in enumerate(names):
        motion = folder / "motion_s2" / inner / f"{name}.npy"
        motion.parent.mkdir(parents=True, exist_ok=True)
        np.save(motion, np.full((120, 219 if dataset == "aist" else 75), float(i)))
        write_audio(folder / "audio_s2" / inner / f"{name}.wav", torch.full((44_100,), 0.1 * (i + 1)), rate=22_050)


def test_aist(tmp_path: Path) -> None:
    lists(tmp_path, "aist", AIST, "/data/someone/aistplus")
    np.save(tmp_path / "test_genre.npy", np.eye(10)[[1, 9, 0]])
    found = Segments(tmp_path, tmp_path, "test", rate=11_025)
    assert len(found) == 3
    assert [s.genre for s in found] == [1, 9, 0]
    assert found[1].motion.shape == (120, 219)
    assert float(found[1].motion.mean()) == 1
    assert found[1].wave.shape == (22_050,)
    assert float(found[2].wave[5000]) == pytest.approx(0.3, abs=0.01)
    name = aist_name(AIST[1])
    assert (name.genre, name.situation, name.dancer, name.music, name.choreography, name.segment) == ("JB", "FM", 9, "JB5", 2, 3)
    assert AIST_GENRES[found[0].genre] == "PO"
    np.save(tmp_path / "test_genre.npy", np.eye(10)[[1, 8, 0]])
    with pytest.raises(DataError, match="one-hot genres of 3 names"):
        Segments(tmp_path, tmp_path, "test")


def test_tiktok_has_no_genres(tmp_path: Path) -> None:
    lists(tmp_path, "tiktok", TIKTOK, "./tiktok")
    found = Segments(tmp_path, tmp_path, "test", "tiktok")
    assert [s.name for s in found] == list(TIKTOK)
    assert {s.genre for s in found} == {-1}
    assert found[0].motion.shape == (120, 75)


def test_what_does_not_fit_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a list of paths"):
        Segments(tmp_path, tmp_path, "test")
    lists(tmp_path, "aist", AIST, "/data/someone/aistplus", "_s6")
    Segments(tmp_path, tmp_path, "test", seconds=6)
    audio = tmp_path / "aist_audio_test_segment_s6.txt"
    audio.write_text("\n".join(reversed(audio.read_text().splitlines())))
    with pytest.raises(DataError, match="in its order"):
        Segments(tmp_path, tmp_path, "test", seconds=6)
    lists(tmp_path, "aist", ("gXX_sBM_c01_d11_mPO1_ch02_seg1",), "/x")
    with pytest.raises(DataError, match="expected an AIST\\+\\+ name"):
        Segments(tmp_path, tmp_path, "test")
    lists(tmp_path, "tiktok", ("seven",), "/x")
    with pytest.raises(DataError, match="expected names such as"):
        Segments(tmp_path, tmp_path, "test", "tiktok")
    lists(tmp_path, "aist", AIST, "/x")
    found = Segments(tmp_path, tmp_path, "test")
    np.save(tmp_path / "motion_s2/test" / f"{AIST[0]}.npy", np.zeros((120, 75)))
    (tmp_path / "motion_s2/test" / f"{AIST[1]}.npy").write_bytes(b"no array")
    (tmp_path / "audio_s2/test" / f"{AIST[2]}.wav").unlink()
    for i, words in ((0, r"\(frames, 219\)"), (1, "expected an array of motion"), (2, AIST[2])):
        with pytest.raises(DataError, match=words):
            found[i]
    (tmp_path / "aist_motion_test_segment.txt").write_text("")
    with pytest.raises(DataError, match="found nothing"):
        Segments(tmp_path, tmp_path, "test")
    with pytest.raises(DataError, match="aist or tiktok"):
        Segments(tmp_path, tmp_path, "test", "reels")  # type: ignore[arg-type]


def test_video_features_and_negatives(tmp_path: Path) -> None:
    """Video lists beside the others; the published negatives of the six-second training list, as numbers of segments."""
    for part in ("motion", "audio", "video"):
        names = [f"/x/{part}_s6/train/{name}.{'wav' if part == 'audio' else 'npy'}" for name in AIST]
        (tmp_path / f"aist_{part}_train_segment_s6.txt").write_text("\n".join(names))
    for i, name in enumerate(AIST):
        for part, shape in (("motion", (360, 219)), ("video", (2048,) if i else (3, 2048))):
            (tmp_path / f"{part}_s6/train").mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"{part}_s6/train/{name}.npy", np.full(shape, float(i)))
        write_audio(tmp_path / "audio_s6/train" / f"{name}.wav", torch.full((132_300,), 0.1), rate=22_050)
    found = Segments(tmp_path, tmp_path, "train", seconds=6, video=True)
    assert [s.video.shape for s in found if s.video is not None] == [(3, 2048), (1, 2048), (1, 2048)]
    assert Segments(tmp_path, tmp_path, "train", seconds=6)[0].video is None
    assert found.negatives() is None
    file = tmp_path / "aist_extra_negative_samples.json"
    rows = [[f"/x/audio_s6/train/{AIST[j]}.wav" for j in range(3) if j != i] for i in range(3)]
    file.write_text(json.dumps(rows))
    negatives = found.negatives()
    assert negatives is not None and negatives.tolist() == [[1, 2], [0, 2], [0, 1]]
    for wrong in (rows[:2], [["/x/other.wav"]] * 3, "text"):
        file.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"expected (a list of audio paths|3 lists)"):
            found.negatives()
    (tmp_path / "aist_video_train_segment_s6.txt").write_text("/x/other.npy")
    with pytest.raises(DataError, match="in its order"):
        Segments(tmp_path, tmp_path, "train", seconds=6, video=True)
