"""Augmentation: shapes, identity at zero strength, known effects, and randomness from the draw only."""

from __future__ import annotations

import math

import pytest
import torch

from polyscore.data.augment import augment_images, augment_waves, mask_spectrogram, warp_spectrogram
from polyscore.training import Draw

WAVES = 0.9 * torch.sin(2 * math.pi * 440 * torch.arange(4000) / 8000).expand(6, 4000)
MAPS = torch.randn(6, 32, 40, generator=torch.Generator().manual_seed(0))
IMAGES = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_zero_strength_changes_nothing():
    assert torch.allclose(augment_images(IMAGES, Draw(0, 0, 6), shift=0, angle=0, zoom=0, shear=0), IMAGES, atol=1e-4)
    still = augment_waves(WAVES, Draw(0, 0, 6), shift=0, speed=0, gain=0, tilt=0, noise=0)
    assert torch.allclose(still, WAVES, atol=1e-3)
    assert torch.allclose(warp_spectrogram(MAPS, Draw(0, 0, 6), time=0, frequency=0), MAPS, atol=1e-3)


def test_shift_is_in_samples():
    impulse = torch.zeros(64, 1000)
    impulse[:, 500] = 0.9
    moved = augment_waves(impulse, Draw(0, 0, 64), shift=100, speed=0, gain=0, tilt=0, noise=0).abs().argmax(1) - 500
    assert -101 <= moved.min() < -60 and 60 < moved.max() <= 101


def test_speed_changes_pitch():
    faster = augment_waves(WAVES, Draw(0, 0, 6), shift=0, speed=0.2, gain=0, tilt=0, noise=0)
    pitch = torch.fft.rfft(faster * torch.hann_window(4000)).abs().argmax(1) * 2.0
    assert (pitch > 440 * math.exp(-0.21)).all() and (pitch < 440 * math.exp(0.21)).all() and pitch.std() > 10


def test_lowest_bin_stays_when_frequency_stretches():
    ramp = torch.arange(32.0)[None, :, None].expand(6, 32, 40)
    out = warp_spectrogram(ramp, Draw(0, 0, 6), time=0, frequency=0.2)
    assert out[:, 0].abs().max() < 0.5 and out[:, 20].std() > 0.5


def test_masks_are_at_most_as_large_as_said():
    changed = mask_spectrogram(MAPS, Draw(0, 0, 6), bins=5, frames=7) != MAPS
    assert (changed.all(2).sum(1) <= 5).all() and (changed.all(1).sum(1) <= 7).all() and changed.any()


@pytest.mark.parametrize(
    ("change", "data"), [(augment_images, IMAGES), (augment_waves, WAVES), (warp_spectrogram, MAPS), (mask_spectrogram, MAPS)]
)
def test_same_draw_same_result_and_processes_agree(change, data):
    whole = change(data, Draw(1, 2, 6))
    assert torch.equal(whole, change(data, Draw(1, 2, 6))) and whole.shape == data.shape
    parts = [change(data[3 * rank : 3 * rank + 3], Draw(1, 2, 6, rank, 2)) for rank in (0, 1)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)
