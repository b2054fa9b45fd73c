"""Codecs of clips: rendering, placing, and their way back."""

from __future__ import annotations

import pytest
import torch

from polyscore.codecs import Chain, Identity, LogMel, SoundClip, VideoClip
from polyscore.codecs.base import Codec
from polyscore.codecs.clips import FPS, brightest, centred, draft, place, render, video_change, wave_span
from polyscore.spec import from_spec, to_spec


class Flat(Codec):
    """Data as one long vector."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.data_shape = shape
        self.latent_shape = (int(torch.tensor(shape).prod()),)

    def encode(self, x):
        return x.flatten(1)

    def decode(self, z):
        return z.reshape(-1, *self.data_shape)


def picture():
    image = torch.zeros(1, 28, 28)
    image[:, 8:20, 10:16] = 1
    return image


def tone():
    return torch.nn.functional.pad(torch.sin(torch.arange(4000) * 0.5)[None].expand(3, -1), (0, 4000))


def test_each_kind_changes_at_its_instant():
    instants = torch.tensor([0.5, 0.625, 1.0])
    videos = render(picture().expand(3, 1, 28, 28), instants, torch.tensor([0, 1, 2]), torch.tensor([1, -1, 1]))
    assert videos.shape == (3, 16, 28, 28)
    assert torch.equal(video_change(videos), (instants * FPS).long())
    appears, moves, flashes = videos
    assert float(appears[3].sum()) == 0
    assert torch.equal(appears[4], picture()[0])
    assert torch.equal(moves[4], picture()[0])
    assert torch.equal(moves[15], torch.roll(picture()[0], -6, 1))
    assert torch.allclose(flashes[7], 0.3 * picture()[0])
    assert torch.allclose(flashes[8], picture()[0])
    assert float(flashes[9].max()) < 1


def test_sounds_start_at_their_instants():
    instants = torch.tensor([0.2, 0.77, 1.1])
    placed = place(tone(), instants)
    assert placed.shape == (3, 16000)
    assert torch.equal(placed[1, 6160:10160], tone()[1, :4000])
    assert float(placed[1, :6160].abs().max()) == 0
    assert (wave_span(placed)[0] / 8000 - instants).abs().max() < 0.006
    middle, found = centred(placed)
    assert torch.allclose(found, wave_span(placed)[0] / 8000)
    assert wave_span(middle)[0].tolist() == pytest.approx([2000] * 3, abs=50)
    assert wave_span(torch.zeros(1, 16000))[1].tolist() == [0]


@pytest.mark.parametrize("direction", [-1, 1])
def test_a_video_comes_back_exactly(direction):
    instants, kinds = torch.tensor([0.25, 0.5, 1.125]), torch.tensor([0, 1, 2])
    videos = render(picture().expand(3, 1, 28, 28), instants, kinds, torch.full((3,), direction))[:, :, None]
    codec = VideoClip(Flat((1, 28, 28)))
    z = codec.encode(videos)
    assert z.shape == (3, 788)
    assert torch.allclose(codec.decode(z), videos)
    assert torch.equal(brightest(videos), picture().expand(3, 1, 28, 28))


def test_a_sound_comes_back_at_its_instant():
    instants = torch.tensor([0.2, 0.77, 1.1])
    placed = place(tone(), instants)
    codec = SoundClip(Identity((8000,)))
    back = codec.decode(codec.encode(placed))
    assert (wave_span(back)[0] - wave_span(placed)[0]).abs().max() <= 40
    assert (wave_span(back)[1] - wave_span(placed)[1]).abs().max() <= 80


def test_codecs_of_clips_are_stored_and_made_fast():
    codec = SoundClip(Chain([LogMel(samples=8000), Identity((64, 64))]))
    again = from_spec(to_spec(codec))
    assert again.latent_shape == (65,)
    draft(again)
    assert again.word.stages[0].iterations == 4
    assert again.word.stages[0].updates == 4
