"""Dance to music on made-up dances: loader, network, training, table and video."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from polyscore.data.dance import FRAME, RATE, VISUAL, Dance, cut, load_dances, pictures, pose
from polyscore.errors import DataError, PolyscoreError
from polyscore.media import read_video, write_audio
from polyscore.networks.motion import DanceDenoiser, MotionEncoder
from polyscore.recipes.cdcd.dance import CODEC, DANCE_SETTINGS, FIRST, JUDGE, MORE, DanceSweep, DanceTraining, principal, project
from polyscore.recipes.cdcd.dance_data import SAMPLES, load_parts
from polyscore.recipes.cdcd.dance_own import read_motion
from polyscore.recipes.cdcd.dance_table import DanceTable, _rank, score
from polyscore.recipes.cdcd.dance_video import dance_videos
from polyscore.recipes.tables import read_table

torch.set_num_threads(1)
Run = Callable[..., tuple[int, str, str]]
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


def test_the_papers_network_has_its_size() -> None:
    """On the paper's layout: 344 tokens of 2048, two seconds of AIST++ motion at 60 Hz, ten genres, a vector of video features."""
    with torch.device("meta"):
        model = DanceDenoiser(2048, 344, 219, 10, size="paper", frames=120, visual=(1, 2048))
    encoder = model.network.encoder  # type: ignore[union-attr]
    assert sum(p.numel() for p in encoder.parameters()) == 6_195_841  # type: ignore[union-attr,operator]
    assert sum(p.numel() for p in model.parameters()) == 418_025_089
    with pytest.raises(PolyscoreError, match="size 'huge': expected one of small, paper"):
        DanceDenoiser(6, size="huge")


def test_the_papers_form_in_small() -> None:
    """A table of time steps, the genre as a token of its own, and motion at its own rate."""
    torch.manual_seed(0)
    model = DanceDenoiser(6, length=8, features=5, width=16, depth=1, size="paper", frames=12).eval()
    z, t, motion = {"music": torch.full((2, 8), 6)}, {"music": 0.5}, torch.randn(2, 12, 5)
    one, two, none = (model(z, t, {"motion": motion, "label": torch.tensor([k, k])})["music"].log_probs for k in (0, 1, -1))  # type: ignore[union-attr]
    assert one.shape == (2, 8, 6)
    assert not torch.allclose(one, two)
    torch.testing.assert_close(model(z, t, {"motion": motion})["music"].log_probs, none)  # type: ignore[union-attr]
    with pytest.raises(PolyscoreError, match=r"motion: expected \(n, 12, 5\)"):
        model(z, t, {"motion": motion[:, :8]})


def test_the_sweep_chooses_by_its_rule() -> None:
    tried = DanceSweep(chunks=(2, 4), temperatures=(0.02,), weights=(0.05, 0.5)).settings()
    assert len(tried) == 4
    found = tried["step-intra, chunks 4, temperature 0.02, lambda 0.05"]
    assert (found.chunks, found.temperature, found.weight, found.intra) == (4, 0.02, 0.05, "step")
    assert DANCE_SETTINGS["step-intra"] in DanceSweep().settings().values()
    cells = {"a": (0.351, 1.3), "b": (0.349, 1.1), "c": (0.34, 1.0)}
    assert min(cells, key=lambda k: _rank({"onset F": cells[k][0], "coverage": cells[k][1]})) == "b"


def test_motion_files(tmp_path: Path) -> None:
    joints = torch.randn(20, 23, 3, generator=torch.Generator().manual_seed(0)).numpy() + 50
    np.savez(tmp_path / "a.npz", joints=joints, fps=10.0, edges=np.array([[0, 1]]))
    dance = read_motion(tmp_path / "a.npz", bpm=120, genre="rumba")
    assert (dance.name, dance.genre, dance.fps, dance.frames_per_beat, dance.edges) == ("a", 1, 10.0, 5.0, ((0, 1),))
    torch.testing.assert_close(dance.joints.mean(1), torch.zeros(20, 3), atol=1e-4, rtol=0)
    np.save(tmp_path / "a.npy", joints)
    assert read_motion(tmp_path / "a.npy", fps=25).frames_per_beat == 0
    np.savez(tmp_path / "no.npz", poses=joints)
    np.save(tmp_path / "flat.npy", joints[0])
    (tmp_path / "text.npz").write_text("no array")
    wrong = {
        "a.npy": '"fps" in the file',
        "no.npz": '"joints"',
        "flat.npy": r"expected joints",
        "text.npz": "motion file",
        "b": "motion file",
    }
    for name, words in wrong.items():
        with pytest.raises(DataError, match=words):
            read_motion(tmp_path / name)


def quick() -> list[str]:
    """QUICK as options."""
    return [
        f"--training.{part}.{key}={value}"
        for part in ("codec", "judge", "first", "more")
        for key, value in (("steps", 2), ("batch_size", 8))
    ]


@pytest.mark.slow
def test_the_commands(data: Path, tmp_path: Path, run_cli: Run) -> None:
    """Train, evaluate with the choice on a held seed, videos of test clips and of a dance of one's own, through the command line."""
    folder, out = tmp_path / "runs", tmp_path / "cdcd-dance.json"
    assert run_cli("train", "cdcd-dance", "--out", folder, "--data", data, *quick())[0] == 0
    assert (folder / "base" / "denoiser.json").is_file()
    tried = ("--tried.chunks", "[2,4]", "--tried.temperatures", "[0.5]", "--tried.weights", "[0.05]", "--tried.samplings", "[1,2]")
    common = ("--folder", folder, "--data", data, "--steps", 2, "--most", 1, *quick())
    code, _, error = run_cli("evaluate", "cdcd-dance", *common, "--out", out, "--seeds", "[0]", "--sweep", "true", *tried)
    assert code == 0, error
    table = read_table(out)
    rows = {row["measure"]: row["mean"] for row in table["rows"]}
    names = [f"step-intra, chunks {c}, temperature 0.5, lambda 0.05" for c in (2, 4)]
    best = min(names, key=lambda name: _rank({what: rows[f"held seed, {name}: {what}"] for what in ("onset F", "coverage")}))
    assert table["protocol"]["held seed"]["chosen"] == best
    assert table["protocol"]["command"] == "polyscore evaluate cdcd-dance --sweep true"
    assert {"held seed, vanilla: hit", "step-intra: onset F", "clicks on the dance's count: hit"} <= set(rows)
    assert {place.name for place in (folder / "7").iterdir()} == {
        "vanilla",
        *("".join(c if c.isalnum() or c in "-." else "_" for c in n) for n in names),
    }
    code, _, error = run_cli("evaluate", "cdcd-dance", *common, "--out", out, "--seeds", "[7]", "--sweep", "true")
    assert code == 2 and "held seed 7: expected another" in error
    for command in (
        ("evaluate", "cdcd-dance", *common, "--seeds", "[1]", "--out", out),
        ("train", "cdcd-dance", "--out", folder, "--data", data, *quick()),
    ):
        code, _, error = run_cli(*command, "--visual", "true")
        assert code == 2 and "expected a denoiser trained with pictures of the dancer (--visual true)" in error, error
    video = ("recipe", "cdcd-dance-videos", "--folder", folder, "--out", tmp_path / "videos", "--setting", "vanilla")
    assert run_cli(*video, "--n", 1, "--data", data)[0] == 0
    assert len(list((tmp_path / "videos").iterdir())) == 2
    joints = np.sin(np.arange(70) / 3)[:, None, None] * np.arange(69).reshape(23, 3)
    np.savez(tmp_path / "mine.npz", joints=joints, fps=20)
    code, _, error = run_cli(*video, "--motion", tmp_path / "mine.npz", "--bpm", 100, "--genre", "waltz")
    assert code == 0, error
    made = read_video(tmp_path / "videos" / "mine.mp4")
    assert made.waveform is not None and made.frames.shape[0] == round(70 / 20 * 25)
    assert float(made.waveform.abs().max()) > 0
    np.savez(tmp_path / "few.npz", joints=joints[:, :22], fps=20)
    code, _, error = run_cli(*video, "--motion", tmp_path / "few.npz")
    assert code == 2 and "expected joints (2 or more frames, 23, 3), found shape (70, 22, 3)" in error


def segments(folder: Path, dataset: str, splits: dict[str, tuple[str, ...]]) -> None:
    """Lists as published for two seconds, and small files of what they name."""
    draw = np.random.default_rng(0)
    for split, names in splits.items():
        inner = f"{split}/" if dataset == "aist" else ""
        for part, end in (("motion", "npy"), ("audio", "wav"), ("video", "npy")):
            lines = [f"/home/someone/{part}_s2/{inner}{name}.{end}" for name in names]
            (folder / f"{dataset}_{part}_{split}_segment.txt").write_text("\n".join(lines))
        for name in names:
            for part, shape in (("motion", (12, 219 if dataset == "aist" else 75)), ("video", (2048,))):
                file = folder / f"{part}_s2" / inner / f"{name}.npy"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, draw.standard_normal(shape))
            clicks = torch.zeros(44_032)
            clicks[4_000::11_000] = 0.9
            write_audio(folder / "audio_s2" / inner / f"{name}.wav", clicks, rate=22_050)


AIST = tuple(f"g{g}_sBM_c01_d01_m{g}1_ch01_seg{k}" for k in range(1, 5) for g in ("BR", "PO"))


def test_segments_become_parts(tmp_path: Path) -> None:
    segments(tmp_path, "aist", {"train": AIST, "test": AIST[:2]})
    parts = load_parts("aist", str(tmp_path), visual=True)
    assert parts.train.waves.shape == (8, 31 * FRAME) and parts.train.motion.shape == (8, 12, 219)
    assert parts.train.labels.tolist() == [0, 1] * 4 and len(parts.genres) == 10
    assert parts.train.visual is not None and parts.train.visual.shape == (8, 1, 2048)
    np.save(tmp_path / "motion_s2" / "train" / f"{AIST[3]}.npy", np.zeros((11, 219)))
    with pytest.raises(DataError, match="motion of one shape in all train segments"):
        load_parts("aist", str(tmp_path))
    with pytest.raises(DataError, match="expected --data"):
        load_parts("tiktok")


@pytest.mark.slow
def test_the_recipe_on_segments(data: Path, tmp_path: Path, run_cli: Run) -> None:
    """AIST++ with video features and TikTok without genres, by the same commands."""
    for dataset, names in (("aist", AIST), ("tiktok", tuple(f"000007_7_{k}_seg3" for k in range(6)))):
        place, folder = tmp_path / dataset, tmp_path / f"runs-{dataset}"
        place.mkdir()
        segments(place, dataset, {"train": names, "test": names[:2]})
        common = ("--data", place, "--dataset", dataset, "--visual", "true" if dataset == "aist" else "false", *quick())
        code, _, error = run_cli("train", "cdcd-dance", "--out", folder, *common)
        assert code == 0, error
        out = tmp_path / f"cdcd-dance-{dataset}.json"
        code, _, error = run_cli("evaluate", "cdcd-dance", "--folder", folder, "--out", out, "--seeds", "[0]", "--steps", 2, *common)
        assert code == 0, error
        rows = {row["measure"] for row in read_table(out)["rows"]}
        assert {"vanilla: onset F", "step-intra: hit", "white noise: coverage"} <= rows
        assert ("sample-inter: genre" in rows) == ("vanilla: genre" in rows) == (dataset == "aist")
        assert read_table(out)["protocol"]["n"] == 2
    code, _, error = run_cli("train", "cdcd-dance", "--out", folder, "--data", data, *quick())
    assert code == 2 and "expected models of 'dances, first 68 %', found those of 'tiktok, train'" in error


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
