"""Talking digits: the clips are what they say, instants are found again, and the whole recipe runs in small."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from polyscore.data.talking import FPS, Domain, Speech, digits_of, place, render, talking_clips
from polyscore.recipes.tables import read_table
from polyscore.recipes.talking import codecs as parts
from polyscore.recipes.talking.codecs import CODEC_TRAINING, JUDGE_TRAINING, Stream, mel
from polyscore.recipes.talking.experts import BASE_TRAINING, DOMAINS, RATIO_TRAINING, TalkingSize
from polyscore.recipes.talking.table import prepare, run_talking, sound_onset, video_onset
from polyscore.training import Draw

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="needs POLYSCORE_DATA")


def picture():
    image = torch.zeros(1, 28, 28)
    image[:, 8:20, 10:16] = 1
    return image


def test_each_kind_changes_at_its_instant():
    instants = torch.tensor([0.5, 0.625, 1.0])
    videos = render(picture().expand(3, 1, 28, 28), instants, torch.tensor([0, 1, 2]), torch.tensor([1, -1, 1]))
    assert videos.shape == (3, 16, 28, 28)
    assert torch.allclose(video_onset(videos).float(), instants)
    appears, moves, flashes = videos
    assert float(appears[3].sum()) == 0
    assert torch.equal(appears[4], picture()[0])
    assert torch.equal(moves[4], picture()[0])
    assert torch.equal(moves[15], torch.roll(picture()[0], -6, 1))
    assert torch.allclose(flashes[7], 0.3 * picture()[0])
    assert torch.allclose(flashes[8], picture()[0])
    assert float(flashes[9].max()) < 1


def test_sounds_start_at_their_instants():
    wave = torch.sin(torch.arange(4000) * 0.5)[None].expand(3, -1)
    wave = torch.nn.functional.pad(wave, (0, 4000))
    instants = torch.tensor([0.2, 0.77, 1.1])
    placed = place(wave, instants)
    assert placed.shape == (3, 16000)
    assert torch.equal(placed[1, 6160:10160], wave[1, :4000])
    assert float(placed[1, :6160].abs().max()) == 0
    front = mel()
    assert (sound_onset(front.encode(placed), front) - instants).abs().max() <= 1.5 * front.hop / front.rate


def test_a_stream_gives_fresh_clips_and_repeats_them():
    speech = Speech(torch.rand(5, 8000) - 0.5, torch.arange(5), torch.zeros(5).long())
    stream = Stream("sound", speech)
    one, again, other = (stream(Draw(0, step, 3))["sound"] for step in (0, 0, 1))
    assert one.shape == (3, 40, 64)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


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
    assert (video_onset(clips.video) - clips.instants).abs().max() <= 0.5 / FPS + 1e-6
    front = mel()
    error = (sound_onset(front.encode(clips.sound), front) - clips.instants).abs()
    assert float(error.median()) < 0.06


@needs_data
def test_the_recipe_in_small(tmp_path, monkeypatch):
    out = str(tmp_path / "run")
    size = TalkingSize(clips=64, pairs=64, fakes=40, width=32, depth=1, steps=2)
    base, ratio = (replace(config, steps=2, batch_size=16) for config in (BASE_TRAINING, RATIO_TRAINING))
    short = {name: replace(config, steps=1, batch_size=4) for name, config in CODEC_TRAINING.items()}
    monkeypatch.setattr(parts, "CODEC_TRAINING", short)
    monkeypatch.setattr(parts, "JUDGE_TRAINING", replace(JUDGE_TRAINING, steps=1, batch_size=4))
    monkeypatch.setattr(parts, "STATISTICS", 1)
    prepare(out, size, base)
    before = (tmp_path / "run" / "base-video.json").stat().st_mtime_ns
    prepare(out, size, base)
    assert (tmp_path / "run" / "base-video.json").stat().st_mtime_ns == before
    table = tmp_path / "talking.json"
    rows = {row.measure: row for row in run_talking(out, str(table), (0,), 8, size, ratio, reference=40)}
    for case in ("base", "disc", "denoise", "all", "all, scale 4", "OOD base", "OOD all", "one joint base, guided"):
        assert 0 <= rows[f"{case}: agreement"].mean <= 1
        assert rows[f"{case}: video frechet"].mean >= 0
    assert rows["real pairs: onset error ms"].mean < 125
    assert read_table(table)["protocol"]["n"] == 8
