"""Log-mel codec: the filters, the way back, independence of batch mates."""

from __future__ import annotations

import math

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import LogMel
from polyscore.codecs.mel import griffin_lim, mel_filterbank


def tones(n=3):
    time = torch.arange(8000) / 8000
    envelope = torch.exp(-((time - 0.5) ** 2) / 0.02)
    return torch.stack([0.8 * envelope * torch.sin(2 * math.pi * (300 + 250 * k) * time) for k in range(n)])


def test_filterbank_is_librosas():
    librosa = pytest.importorskip("librosa")
    for n_fft, n_mels in ((384, 64), (256, 40)):
        theirs = torch.from_numpy(librosa.filters.mel(sr=8000, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None))
        assert (mel_filterbank(8000, n_fft, n_mels) - theirs).abs().max() < 1e-4


def test_shapes_and_round_trip():
    codec = LogMel(n_fft=384, floor=0.1, mean=-1.3, std=1.4)
    x = tones()
    z = codec.encode(x)
    assert z.shape == (3, 64, 64) and codec.latent_shape == (64, 64) and codec.data_shape == (8000,)
    wave = codec.decode(z)
    assert wave.shape == x.shape and wave.abs().max() <= 1
    assert (codec.encode(wave) - z).abs().mean() < 0.1
    peaks = torch.fft.rfft(wave).abs().argmax(1)
    assert (peaks - torch.tensor([300, 550, 800])).abs().max() <= 8


def test_decode_does_not_depend_on_batch_mates():
    codec = LogMel(iterations=4)
    z = codec.encode(tones())
    alone = torch.cat([codec.decode(part) for part in z.split(1)])
    assert torch.allclose(alone, codec.decode(z), atol=1e-4)


def test_silence_and_wild_latents_stay_finite():
    codec = LogMel(iterations=3)
    assert codec.decode(codec.encode(torch.zeros(2, 8000))).abs().max() < 1e-3
    assert codec.decode(10 * torch.randn(2, 64, 64)).isfinite().all()


def test_griffin_lim_finds_a_consistent_phase():
    window = torch.hann_window(256)
    target = torch.stft(tones(), 256, 64, window=window, return_complex=True).abs()
    few, many = (torch.stft(griffin_lim(target, window, 64, 8000, n), 256, 64, window=window, return_complex=True).abs() for n in (1, 40))
    error_few, error_many = ((y - target).norm() / target.norm() for y in (few, many))
    assert error_many < 0.15 and error_many < error_few / 2


def test_saved_and_loaded(tmp_path):
    codec = LogMel(n_mels=40, n_fft=256)
    save_module(codec, tmp_path / "mel")
    again = load_module(tmp_path / "mel", LogMel)
    assert torch.equal(again.encode(tones()), codec.encode(tones()))
