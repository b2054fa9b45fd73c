"""Talking digits: the clips are what they say, instants are found again, and the whole recipe runs in small."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from polyscore.codecs.clips import FPS, brightest, centred, draft, video_change, wave_span
from polyscore.data.talking import Domain, digits_of, talking_clips
from polyscore.generate import generate
from polyscore.media import read_video
from polyscore.recipes.tables import read_table
from polyscore.recipes.talking.clips import DOMAINS, Bank, clip_codecs, compose, load_bank
from polyscore.recipes.talking.experts import BASE_TRAINING, RATIO_TRAINING, TalkingSize
from polyscore.recipes.talking.table import run_talking, talking_time

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="needs POLYSCORE_DATA")


def bank(n: int = 40) -> Bank:
    """Items whose latents say their digit."""
    labels = torch.arange(n) % 10
    means = labels[:, None].float().expand(-1, 3)
    posterior = torch.stack([means, torch.zeros_like(means)], 1)
    return Bank(posterior, labels, posterior, labels)


def test_pairs_are_composed_with_one_digit_and_instant():
    made = compose(bank(), 200, 3)
    assert made["video"].shape == (200, 7)
    assert made["sound"].shape == (200, 4)
    assert torch.equal(made["video"][:, 0], made["sound"][:, 0])
    seconds = [(made[name][:, place] * 12**-0.5 + 0.625) for name, place in (("video", 3), ("sound", 3))]
    assert float((seconds[0] - seconds[1]).abs().max()) <= 0.5 / FPS + 1e-5
    apart = compose(bank(), 200, 3, paired=False)
    assert torch.equal(apart["video"], made["video"])
    assert float((apart["video"][:, 0] == apart["sound"][:, 0]).float().mean()) < 0.3


def test_domains_are_disjoint():
    torch.manual_seed(0)
    x, labels = torch.rand(400, 1, 28, 28) * torch.rand(400, 1, 1, 1), torch.arange(400) % 10
    light, bold = (digits_of(x, labels, domain) for domain in DOMAINS.values())
    assert float(light.float().mean()) == pytest.approx(0.7, abs=0.03)
    assert not bool((light & bold).any())
    assert not set(DOMAINS["IND"].speakers) & set(DOMAINS["OOD"].speakers)


@needs_data
def test_pairs_share_digit_and_instant():
    clips = talking_clips(24, Domain((4, 5)), 3, "test")
    again = talking_clips(24, Domain((4, 5)), 3, "test")
    assert torch.equal(clips.sound, again.sound)
    assert len(set(clips.labels.tolist())) > 4
    assert (video_change(clips.video) / FPS - clips.instants).abs().max() <= 0.5 / FPS + 1e-6
    assert float((wave_span(clips.sound)[0] / 8000 - clips.instants).abs().median()) < 0.02


@needs_data
def test_real_clips_survive_their_codecs():
    clips = talking_clips(12, Domain(), 5, "test")
    codecs = clip_codecs()
    draft(codecs["sound"])
    with torch.no_grad():
        z = {"video": codecs["video"].encode(clips.video[:, :, None]), "sound": codecs["sound"].encode(clips.sound)}
        video, sound = codecs["video"].decode(z["video"]), codecs["sound"].decode(z["sound"])
    assert torch.equal(video_change(video[:, :, 0]), (clips.instants * FPS).round().long())
    assert float((brightest(video) - brightest(clips.video[:, :, None])).abs().mean()) < 0.05
    assert float((wave_span(sound)[0] / 8000 - clips.instants).abs().median()) < 0.03
    assert centred(sound)[0].shape == (12, 8000)


@needs_data
def test_the_recipe_in_small(tmp_path):
    out = str(tmp_path / "run")
    size = TalkingSize(clips=64, pairs=64, fakes=40, width=32, depth=1, ratio=16, blocks=1, steps=2)
    base, ratio = (replace(config, steps=2, batch_size=16) for config in (BASE_TRAINING, RATIO_TRAINING))
    load_bank(out, "IND", most=200)
    load_bank(out, "OOD", most=200)
    table = tmp_path / "talking.json"
    rows = {row.measure: row for row in run_talking(out, str(table), (0,), 8, size, base, ratio, reference=40)}
    for case in ("base", "disc", "denoise", "all", "all, scale 4", "OOD base", "OOD all", "one joint base, guided"):
        assert 0 <= rows[f"{case}: agreement"].mean <= 1
        assert rows[f"{case}: video frechet"].mean >= 0
    assert rows["all, scale 0: agreement"].mean == rows["base: agreement"].mean
    assert rows["real pairs, IND: median onset error, ms"].mean < 125
    assert read_table(table)["protocol"]["n"] == 8
    before = (tmp_path / "run" / "base-video.json").stat().st_mtime_ns
    again = {row.measure: row for row in run_talking(out, str(table), (0,), 8, size, base, ratio, reference=40)}
    assert (tmp_path / "run" / "base-video.json").stat().st_mtime_ns == before
    assert again["all: agreement"].values == rows["all: agreement"].values
    timed = {row.measure: row for row in talking_time(out, str(tmp_path / "time.json"), (0,), 8, 1, size)}
    assert timed["all: time over base"].reach == ("<=", 0.15) and timed["base: CPU seconds for 8 pairs"].mean > 0
    files = generate(f"{out}/joined", tmp_path / "made", n=1, options={"steps": 2})
    assert [f.name for f in files] == ["0000_video.mp4", "0000_sound.wav"]
    clip = read_video(files[0])
    assert clip.frames.shape[0] == 16
    assert clip.waveform is not None and abs(len(clip.waveform) / clip.rate - 2) < 0.2
