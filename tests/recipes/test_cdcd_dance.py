"""Dance to music on made-up dances: loader, network, training, table and video."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from polyscore.data.dance import FRAME, RATE, VISUAL, Dance, cut, load_dances, pictures, pose
from polyscore.errors import DataError, PolyscoreError
from polyscore.media import read_video
from polyscore.networks.motion import DanceDenoiser, MotionEncoder
from polyscore.recipes.cdcd.dance import CODEC, FIRST, JUDGE, MORE, SAMPLES, DanceTraining, principal, project
from polyscore.recipes.cdcd.dance_table import DanceTable, score
from polyscore.recipes.cdcd.dance_video import dance_videos
from polyscore.recipes.tables import read_table

torch.set_num_threads(1)
QUICK = DanceTraining(*(replace(config, steps=2, batch_size=8) for config in (CODEC, JUDGE, FIRST, MORE)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dances of 12 s, a beat every half second."""
    folder = tmp_path_factory.mktemp("dances") / "dance"
    folder.mkdir()
    arrays, items = {"edges": np.array([[0, 1], [1, 2]])}, []
    with tarfile.open(folder / "music_ogg.tar", "w") as music:
        for number, genre in enumerate(("waltz", "rumba", "cha-cha")):
            name, fps, frames = f"D{number}", 8.0, 96
            angle = 2 * np.pi * np.arange(frames) / 4
            arrays[f"{name}/joints"] = (np.sin(angle)[:, None, None] * np.arange(1, 70).reshape(23, 3)).astype(np.float16)
            arrays[f"{name}/center"] = np.stack([angle, 0 * angle, angle], 1).astype(np.float32)
            arrays[f"{name}/beats"] = np.arange(0, 12, 0.5, dtype=np.float32)
            t = np.arange(12 * RATE) / RATE
            wave = (0.5 * np.sin(2 * np.pi * 300 * (number + 1) * t) * np.exp(-20 * (t % 0.5))).astype(np.float32)
            buffer = io.BytesIO()
            soundfile.write(buffer, wave, RATE, format="OGG", subtype="VORBIS")
            info = tarfile.TarInfo(f"{name}.ogg")
            info.size = buffer.getbuffer().nbytes
            buffer.seek(0)
            music.addfile(info, buffer)
            sure = {"tempo_mismatch": 0.01 if number < 2 else 0.2, "beat_grid_consistency": 0.9}
            items.append({"id": name, "genre": genre, "fps": fps, "frames_per_beat": 4.0, **sure})
    np.savez(folder / "dance.npz", **arrays)
    (folder / "dance.json").write_text(json.dumps(items))
    return folder.parent


def test_dances_are_read_and_cut(data: Path, tmp_path: Path) -> None:
    dances = load_dances(data)
    assert [d.name for d in dances] == ["D0", "D1"]
    assert len(load_dances(data, clean=False)) == 3
    assert dances[0].edges == ((0, 1), (1, 2))
    clips = cut(dances, SAMPLES, 1.0, (0.0, 0.5))
    assert clips.motion.shape[1:] == (SAMPLES // FRAME, 23 * 6 + 3 + 2)
    assert clips.waves.shape[1] == SAMPLES
    assert set(clips.labels.tolist()) == {0, 1}
    assert float(clips.starts.max()) + SAMPLES / RATE <= 6 + 1e-6
    between = pose(dances[0], torch.tensor([0.125, 0.1875, 0.25]))
    torch.testing.assert_close(between[1], (between[0] + between[2]) / 2)
    assert dances[0].frames_per_beat == 4
    middles = (torch.arange(SAMPLES // FRAME) + 0.5) * FRAME / RATE + clips.starts[1]  # a beat every half second
    torch.testing.assert_close(clips.motion[1, :, -2], (4 * torch.pi * middles).cos(), atol=1e-4, rtol=0)
    basis = principal(clips.motion[..., :-2], 2)
    seen = project(clips.motion, basis)
    assert seen.shape[-1] == 5
    assert torch.equal(seen[..., 2:4], clips.motion[..., -2:])
    assert bool((seen[..., -1] == 1).all())
    torch.testing.assert_close(seen[..., :2].flatten(0, 1).std(0), torch.ones(2), atol=0.02, rtol=0)
    with pytest.raises(DataError, match="found none"):
        cut(dances, SAMPLES * 10, 1.0, (0.0, 0.5))
    with pytest.raises(DataError, match=r"expected dance\.npz"):
        load_dances(tmp_path)


def test_network_sees_motion_and_genre() -> None:
    torch.manual_seed(0)
    model = DanceDenoiser(6, length=8, features=5, width=16, depth=1).eval()
    z, t = {"music": torch.full((3, 8), 6)}, {"music": 1.0}
    motion, label = torch.randn(3, 8, 5), torch.tensor([0, 1, 2])
    both, none = model(z, t, {"motion": motion, "label": label}), model(z, t)
    assert both["music"].log_probs.shape == (3, 8, 6)  # type: ignore[union-attr]
    assert not torch.allclose(both["music"].log_probs, none["music"].log_probs)  # type: ignore[union-attr]
    zeros = model(z, t, {"motion": torch.zeros(3, 8, 5), "label": torch.full((3,), -1)})
    torch.testing.assert_close(zeros["music"].log_probs, none["music"].log_probs)  # type: ignore[union-attr]
    with pytest.raises(PolyscoreError, match="motion: expected"):
        model(z, t, {"motion": motion[:, :4]})
    paper = MotionEncoder(60, 219, 1024, 800, (256, 512, 1024, 1024, 1))
    assert paper(torch.randn(2, 60, 219)).shape == (2, 1024)


def test_pictures_of_the_dancer() -> None:
    """A bone that points up, on the right of the centre: its cells, and nothing else."""
    joints = torch.zeros(4, 23, 3)
    joints[:, 0, 0] = joints[:, 1, 0] = 50.0
    joints[:, 1, 1] = 99.0
    dance = Dance("a", 0, joints, torch.zeros(4, 3), 4.0, torch.zeros(RATE), torch.zeros(1), ((0, 1),))
    seen = pictures(dance, torch.tensor([0.1, 0.6])).view(2, 12, 12)
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen.sum((1, 2)), torch.ones(2))
    assert seen[0].nonzero().tolist() == [[row, 8] for row in range(6, 11)]


def test_network_may_see_pictures() -> None:
    torch.manual_seed(0)
    model = DanceDenoiser(6, length=8, features=5, width=16, depth=1, visual=(2, 9)).eval()
    z, t, motion = {"music": torch.full((3, 8), 6)}, {"music": 1.0}, torch.randn(3, 8, 5)
    with_them = model(z, t, {"motion": motion, "label": torch.zeros(3).long(), "visual": torch.randn(3, 2, 9)})
    without = model(z, t, {"motion": motion, "label": torch.zeros(3).long()})
    assert not torch.allclose(with_them["music"].log_probs, without["music"].log_probs)  # type: ignore[union-attr]
    for network, visual in ((model, torch.randn(3, 3, 9)), (DanceDenoiser(6, length=8, features=5), torch.randn(3, 2, 9))):
        with pytest.raises(PolyscoreError, match="visual: expected"):
            network(z, t, {"motion": motion, "visual": visual})


def test_score_against_itself_and_silence() -> None:
    clips = [np.array([0.3, 1.2]), np.array([0.5])]
    assert score(clips, clips) == {"onset F": 1.0, "coverage": 1.0, "hit": 1.0}
    assert score(clips, [np.zeros(0)] * 2) == {"onset F": 0.0, "coverage": 0.0, "hit": 0.0}


@pytest.mark.slow
def test_table_and_videos(data: Path, tmp_path: Path) -> None:
    folder, out = str(tmp_path / "runs"), tmp_path / "cdcd-dance.json"
    rows = DanceTable(folder, str(out), str(data), (0, 1), 3, 2, QUICK).run()
    names = {row.measure for row in rows}
    assert {"vanilla: onset F", "step-intra: hit", "sample-inter: genre", "shuffled music: coverage", "white noise: hit"} <= names
    assert read_table(out)["protocol"]["per genre"] == [1, 1]
    seeing = DanceTable(str(tmp_path / "seeing"), str(tmp_path / "seeing.json"), str(data), (0,), 3, 1, QUICK, visual=True)
    seeing.run()
    assert seeing.studio.features(seeing.studio.test)["visual"].shape[1:] == VISUAL
    assert [f.suffix for f in dance_videos(seeing.folder, str(tmp_path / "seen"), 1, 0, "vanilla", str(data), 2, "left")] == [".mp4"] * 2
    files = dance_videos(folder, str(tmp_path / "videos"), 1, 0, "step-intra", str(data))
    assert [f.name for f in files] == ["D0_008.4_made.mp4", "D0_008.4_real.mp4"]
    video = read_video(files[0])
    assert video.waveform is not None and video.frames.shape[0] == 51
    with pytest.raises(PolyscoreError, match="expected 1 to"):
        dance_videos(folder, str(tmp_path / "videos"), 99, 0, "step-intra", str(data))
