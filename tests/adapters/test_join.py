"""`polyscore join`: clips in, a discriminator between two tiny pipelines, mp4 with sound out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from polyscore.adapters.clips import clip_files, clips_of, read_captions
from polyscore.adapters.experts import NetworkExpert
from polyscore.adapters.join import JOIN, discriminator_network, join, load_experts
from polyscore.adapters.prompts import PromptedNetwork
from polyscore.checkpoint import load_module
from polyscore.cli import main
from polyscore.composer import Composer
from polyscore.errors import DataError, PolyscoreError
from polyscore.media import read_metadata, read_video, write_audio, write_video
from polyscore.networks.streams import StreamNetwork, StreamSize
from polyscore.report.describe import describe
from polyscore.sampling import sample
from polyscore.training.fakes import load_fakes

Family = Callable[[str], Path]
CALL = {"video": {"num_frames": 4}}
TINY = replace(JOIN, steps=4, batch_size=4, checkpoint_every=2, log_every=2)
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


def test_pictures_of_clips_are_their_middle(clips: Path) -> None:
    """Without a sound a piece is as long as the longest video; without a video as the shortest sound; a picture has no length."""
    media = {"film": {"kind": "video", "fps": 8.0}, "still": {"kind": "image"}}
    pieces = clips_of(clip_files(clips)[0], {"film": (4, 3, 16, 16), "still": (3, 16, 16)}, media)
    assert len(pieces) == 2
    frames = clips_of(clip_files(clips)[0], {"film": (8, 3, 16, 16)}, {"film": {"kind": "video", "fps": 16.0}})
    for piece, fine in zip(pieces, frames, strict=True):
        assert torch.equal(piece["still"], fine["film"][4])
        assert not torch.equal(piece["still"], fine["film"][0])
    heard = clips_of(clip_files(clips)[0], {"a": (4000,), "b": (3000,)}, {name: {"kind": "audio", "rate": 8000} for name in "ab"})
    assert len(heard) == 3
    with pytest.raises(DataError, match="pictures only"):
        clips_of(clip_files(clips)[0], {"still": (3, 16, 16)}, {"still": {"kind": "image"}})


def test_the_sound_is_as_long_as_the_video(family: Family) -> None:
    audio, video = f"{family('audio_ldm')}:a bell", f"{family('animate_diff')}:a cat"
    pair = load_experts({"audio": audio, "video": video}, {"video": 3.0}, {"video": "bad dog"}, CALL)
    assert pair.codecs["video"].data_shape == (4, 3, 16, 16)
    assert pair.codecs["audio"].data_shape == (8000,)
    assert pair.media["video"]["sound"] == "audio"
    assert {name: expert.guidance for name, expert in pair.experts.items()} == {"audio": 1.0, "video": 3.0}
    three = load_experts({"still": str(family("stable_diffusion")), "audio": audio, "film": video}, call={"film": CALL["video"]})
    assert three.media["still"] == {"kind": "image"}
    assert three.media["film"]["sound"] == "audio"
    assert three.codecs["audio"].data_shape == (8000,)
    for some, words in (({"a": audio}, "two or more pipelines"), ({n: str(family("stable_diffusion")) for n in "ab"}, "video or audio")):
        with pytest.raises(PolyscoreError, match=words):
            load_experts(some)
    with pytest.raises(PolyscoreError, match="guidance of 'vidoe', expected one of audio, video"):
        load_experts({"audio": audio, "video": video}, {"vidoe": 3.0})
    with pytest.raises(PolyscoreError, match=r"makes 0.16 s, expected the video's 0.5 s"):
        load_experts({"audio": audio, "video": video}, call={**CALL, "audio": {"audio_length_in_s": 0.16}})


def test_a_discriminator_reads_latents_by_their_true_axes() -> None:
    """A video (C, F, H, W) keeps its frames, a sound (C, time, mel) its time."""
    scheduler = diffusers.DDIMScheduler()
    shapes = {"video": (4, 16, 32, 32), "audio": (8, 50, 16)}
    experts = {
        name: NetworkExpert(torch.nn.Identity(), scheduler, shape, name, kind=name if name == "audio" else None)
        for name, shape in shapes.items()
    }
    assert experts["video"].stream == ("video", (1, 0, 2, 3))
    assert experts["audio"].stream == ("spectrogram", (0, 1, 2))
    for extractor, slots in (("resblock", [16, 50]), ("vit", [8, 25])):  # a patch of the ViT spans two instants
        with torch.device("meta"):
            network = discriminator_network(experts, StreamSize(extractor=extractor))
            assert isinstance(network, StreamNetwork)
            z, t = {name: torch.zeros(2, *shape) for name, shape in shapes.items()}, torch.zeros(2)
            made = [network.streams[n](network._turned(n, z[n]), torch.zeros(2, 32)) for n in z]
            assert [m.shape[1] for m in made] == slots
            assert network(z, {"video": t, "audio": t}).shape == (2,)
    with torch.device("meta"):
        streams = discriminator_network(experts).streams
    assert tuple(streams["video"].stem.space.weight.shape) == (32, 4, 3, 3)
    assert tuple(streams["audio"].stem.space.weight.shape) == (32, 8, 3, 3)


def test_captions_beside_clips(tmp_path: Path) -> None:
    names, both = ["a.mp4", "in/b.mp4"], ["video", "audio"]
    assert read_captions(tmp_path, names, both) is None
    tables = {
        "captions.txt": "a.mp4\ta dog\nin/b\tthe sea, at night\n",
        "captions.csv": 'name,caption\na,a dog\nin/b.mp4,"the sea, at night"\n',
        "captions.jsonl": '{"name": "a", "caption": "a dog"}\n{"name": "in/b", "caption": "the sea, at night"}\n',
        "captions.json": '{"a.mp4": "a dog", "in/b": "the sea, at night"}',
    }
    for name, text in tables.items():  # the last one written comes first in the order of the tables
        (tmp_path / name).write_text(text)
        assert read_captions(tmp_path, names, both) == {name: ["a dog", "the sea, at night"] for name in both}
    (tmp_path / "other.json").write_text('{"a": {"video": "a dog", "audio": "barks"}, "in/b": "the sea"}')
    assert read_captions(tmp_path, names, both, tmp_path / "other.json") == {"video": ["a dog", "the sea"], "audio": ["barks", "the sea"]}
    with pytest.raises(DataError, match=r"expected a caption of the clip 'c.mp4' for 'video', found None"):
        read_captions(tmp_path, [*names, "c.mp4"], both)
    for name, text, words in (
        ("x.txt", "a dog", "tabulator"),
        ("x.csv", "clip,caption\na,b", "column name"),
        ("x.json", "[]", "an object"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=words):
            read_captions(tmp_path, names, both, tmp_path / name)
    with pytest.raises(DataError, match="found no file"):
        read_captions(tmp_path, names, both, tmp_path / "none.json")


def test_join_and_sample_from_the_command_line(family: Family, clips: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    experts = [f"audio={family('audio_ldm')}:a bell", f"video={family('animate_diff')}:a cat"]
    training = ["--training.steps", "4", "--training.batch_size", "4", "--training.checkpoint_every", "2"]
    arguments = ["join", "--experts", *experts, "--data", str(clips), "--out", str(out), "--fakes", "6", "--steps", "2", *training]
    arguments += ["--call", '{"video": {"num_frames": 4}}', "--guidance", "video=2", "audio=1.5", "--scale", "video=3", "audio=0.5"]
    arguments += ["--network.fusion", "aligned", "--adversarial", "0.5"]
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
    assert again.denoiser.scale == {"video": 3.0, "audio": 0.5}
    assert {part.modality: part.guidance for part in again.denoiser.denoiser.parts} == {"audio": 1.5, "video": 2.0}
    network = again.denoiser.ratio.network
    assert network.axes["video"] == (1, 0, 2, 3)
    assert network.kinds == {"video": "video", "audio": "spectrogram"}
    assert json.loads((out / "training" / "ratio.json").read_text())["meta"]["objective"]["adversarial"] == 0.5
    text = describe(out)
    assert "6 in 1 shards" in text
    assert "held-out loss" in text
    sound = write_audio(tmp_path / "tone.wav", 0.5 * torch.sin(torch.arange(8000) / 16000 * 2 * torch.pi * 300), rate=16000)
    given = ["sample", "--model", str(out), "--given", f"audio={sound}", "--n", "1", "--steps", "2", "--out", str(tmp_path / "seen")]
    assert main(given) == 0, capsys.readouterr().err
    assert [p.name for p in (tmp_path / "seen").iterdir()] == ["0000_video.mp4"]
    assert main([*given[:-1], str(tmp_path / "other"), "--prompt", "video=a dog"]) == 0, capsys.readouterr().err
    one, other = (read_video(tmp_path / name / "0000_video.mp4").frames for name in ("seen", "other"))
    assert not torch.equal(one, other)
    assert main(["join", "--data", str(clips)]) == 2
    assert main([*given, "--prompt", "speech=a dog"]) == 2
    assert "prompt of 'speech': expected a modality whose expert takes prompts, found audio, video" in capsys.readouterr().err


def test_captions_are_the_conditions_of_reals_fakes_and_discriminator(family: Family, clips: Path, tmp_path: Path) -> None:
    """Three experts; each real piece has its clip's caption, the fakes have the same ones, and all of it is there after loading."""
    experts = {"audio": str(family("audio_ldm")), "video": str(family("animate_diff")), "still": str(family("ddpm"))}
    table = tmp_path / "captions.json"
    texts = {f"{k}.mp4": text for k, text in enumerate(["a red cat", "the blue sea", "a red cat"])}
    table.write_text(json.dumps({**texts, "broken.mp4": "nothing"}))
    options: dict[str, Any] = {"fakes": 6, "steps": 2, "call": CALL, "guidance": {"video": 2.0}, "training": TINY, "captions": table}
    composer = join(experts, clips, tmp_path / "run", **options, dropout=0.5)
    assert composer.meta["clips"] == 6
    video = composer.denoiser.denoiser.parts[1]
    numbers = load_fakes(tmp_path / "run" / "fakes").condition["video"]
    assert sorted(numbers.tolist()) == sorted(int(video.prompt(text)) for text in texts.values() for _ in range(2))
    states = load_fakes(tmp_path / "run" / "fakes").states["video"]
    alone = sample(video, 6, seed=1, steps=2, condition=numbers)["video"]
    assert torch.allclose(states, alone, atol=1e-5)
    network = composer.denoiser.ratio.network
    assert isinstance(network, PromptedNetwork)
    assert sorted(network.network.text) == ["audio", "video"]  # the network of DDPM is told no text
    again = Composer.load(tmp_path / "run")
    for prompt in ("the blue sea", "something new", {"video": "a red cat"}):
        made = [c.sample(1, steps=2, prompt=prompt)["video"] for c in (composer, again)]
        assert torch.allclose(*made, atol=1e-4)
    ratio, z = load_module(tmp_path / "run" / "training" / "ratio"), {n: torch.zeros(2, *s) for n, s in again.denoiser.shapes.items()}
    torch.nn.init.normal_(ratio.network.network.head.weight)
    torch.nn.init.normal_(ratio.network.network.text["video"].weight)
    values = ratio(z, dict.fromkeys(z, 0.5), {"video": ["a red cat", "the blue sea"]})
    assert float((values[0] - values[1]).detach().abs()) > 1e-4


@pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="needs the real clips in POLYSCORE_DATA/av")
def test_real_clips_from_mp4_to_mp4(family: Family, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for file in clip_files(Path(os.environ["POLYSCORE_DATA"]) / "av" / "clips")[::22]:
        shutil.copy(file, folder / file.name)
    experts = {"audio": f"{family('audio_ldm')}:a dog barks", "video": f"{family('animate_diff')}:a dog"}
    composer = join(experts, folder, tmp_path / "run", fakes=4, steps=2, call=CALL, most=2, training=TINY)
    assert composer.meta["clips"] == 4
    found = composer.sample(1, steps=2)
    path = composer.write("video", tmp_path / "made.mp4", found["video"][0], sound=4 * found["audio"][0])
    made = read_video(path)
    assert made.frames.shape == (4, 3, 16, 16)
    assert made.waveform is not None
    assert len(made.waveform) >= 8000
