"""`polyscore join`: clips in, a discriminator between two tiny pipelines, mp4 with sound out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from polyscore.adapters.clips import clip_files, clips_of
from polyscore.adapters.join import join, load_pair, training_config
from polyscore.cli import main
from polyscore.composer import Composer
from polyscore.denoisers import count_evaluations
from polyscore.errors import DataError, PolyscoreError
from polyscore.media import read_metadata, read_video, write_video

Family = Callable[[str], Path]
CALL = {"video": {"num_frames": 4}}
TINY = {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 2}
MEDIA = {"video": {"kind": "video", "fps": 8.0, "sound": "audio"}, "audio": {"kind": "audio", "rate": 16000}}


def clip(path: Path, seconds: float = 1.3, fps: int = 10, rate: int = 8000, pitch: float = 300.0) -> Path:
    """A bright square that moves while a loud tone plays."""
    frames = torch.zeros(round(seconds * fps), 3, 24, 32)
    for k in range(len(frames)):
        frames[k, :, 8:16, 2 * k % 24 : 2 * k % 24 + 8] = 1.0
    wave = 1.5 * torch.sin(torch.arange(round(seconds * rate)) / rate * 2 * torch.pi * pitch)
    return write_video(path, frames, fps=fps, waveform=wave, rate=rate)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for k in range(3):
        clip(folder / f"{k}.mp4", pitch=200.0 + 100 * k)
    (folder / "note.txt").write_text("not a clip")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_clips_are_cut_resampled_and_cropped_from_the_same_instant(clips: Path) -> None:
    shapes = {"video": (4, 3, 16, 16), "audio": (8000,)}
    pieces = clips_of(clip_files(clips)[0], shapes, MEDIA)
    assert [f.name for f in clip_files(clips)] == ["0.mp4", "1.mp4", "2.mp4", "broken.mp4"]
    assert len(pieces) == 2  # 1.3 s at 8 fps: two pieces of 4 frames, the rest dropped
    for piece in pieces:
        assert {name: tuple(value.shape) for name, value in piece.items()} == shapes
        assert float(piece["audio"].abs().max()) <= 1.1
        assert 0 <= float(piece["video"].min()) <= float(piece["video"].max()) <= 1
    whole = read_video(clip_files(clips)[0], rate=16000).waveform
    assert whole is not None
    assert torch.equal(pieces[1]["audio"], whole[8000:16000])
    long = clips_of(clip_files(clips)[0], {"video": (24, 3, 16, 16), "audio": (48000,)}, MEDIA)
    assert len(long) == 1
    assert float(long[0]["audio"][-8000:].abs().max()) == 0  # continued with silence


def test_folders_without_clips_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "no"):
        with pytest.raises(DataError, match="expected"):
            clip_files(folder)


def test_the_sound_is_as_long_as_the_video(family: Family) -> None:
    pair = load_pair({"audio": f"{family('audio_ldm')}:a bell", "video": f"{family('animate_diff')}:a cat"}, call=CALL)
    assert pair.codecs["video"].data_shape == (4, 3, 16, 16)
    assert pair.codecs["audio"].data_shape == (8000,)
    assert pair.media["video"]["sound"] == "audio"
    with pytest.raises(PolyscoreError, match="expected one video and one audio pipeline"):
        load_pair({"a": str(family("audio_ldm")), "b": str(family("stable_diffusion"))})
    with pytest.raises(PolyscoreError, match=r"makes 0.16 s, expected the video's 0.5 s"):
        load_pair(
            {"audio": str(family("audio_ldm")), "video": str(family("animate_diff"))}, call={**CALL, "audio": {"audio_length_in_s": 0.16}}
        )


def test_join_and_sample_from_the_command_line(family: Family, clips: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    experts = [f"audio={family('audio_ldm')}:a bell", f"video={family('animate_diff')}:a cat"]
    training = '{"steps": 4, "batch_size": 4, "checkpoint_every": 2}'
    arguments = ["join", "--experts", *experts, "--data", str(clips), "--out", str(out), "--fakes", "6", "--steps", "2"]
    arguments += ["--call", '{"video": {"num_frames": 4}}', "--training", training]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "on 6 pieces of clips" in capsys.readouterr().out
    before = (out / "latents.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0, capsys.readouterr().err
    assert (out / "latents.safetensors").stat().st_mtime_ns == before
    assert main(["sample", "--model", str(out), "--n", "2", "--steps", "2", "--out", str(tmp_path / "made")]) == 0, capsys.readouterr().err
    made = read_video(tmp_path / "made" / "0001_video.mp4")
    assert made.frames.shape == (4, 3, 16, 16)
    assert made.rate == 16000
    assert made.waveform is not None
    assert abs(len(made.waveform) - 8000) <= 1024  # AAC packets
    assert read_metadata(tmp_path / "made" / "0001_video.mp4")["run"]["seed"] == 0
    assert (tmp_path / "made" / "0001_audio.wav").is_file()
    again = Composer.load(out)
    sound = torch.zeros(1, *again.codecs["audio"].data_shape)
    with count_evaluations(again.denoiser) as evaluations:
        found = again.sample(1, given={"audio": sound}, steps=2, conditioning="noised")
    assert found["video"].shape == (1, 4, 3, 16, 16)
    assert evaluations.calls == 4
    assert main(["join", "--data", str(clips)]) == 2


def test_unknown_training_fields_are_refused() -> None:
    assert training_config({"steps": 7}).steps == 7
    with pytest.raises(PolyscoreError, match="field 'step', expected one of"):
        training_config({"step": 7})


@pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="needs the real clips in POLYSCORE_DATA/av")
def test_real_clips_from_mp4_to_mp4(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for file in clip_files(Path(os.environ["POLYSCORE_DATA"]) / "av" / "clips")[::22]:
        shutil.copy(file, folder / file.name)
    experts = {"audio": f"{family('audio_ldm')}:a dog barks", "video": f"{family('animate_diff')}:a dog"}
    composer = join(experts, folder, tmp_path / "run", fakes=4, steps=2, call=CALL, most=2, training=training_config(TINY))
    assert composer.meta["clips"] == 4
    found = composer.sample(1, steps=2)
    path = composer.write("video", tmp_path / "made.mp4", found["video"][0], sound=4 * found["audio"][0])
    made = read_video(path)
    assert made.frames.shape == (4, 3, 16, 16)
    assert made.waveform is not None
    assert len(made.waveform) >= 8000
