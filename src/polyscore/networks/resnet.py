"""The autoencoder networks of the Score-Based Multimodal Autoencoder for PolyMNIST: residual, with batch normalisation, 32 x 32 inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyscore.spec import register

__all__ = ["PolyDecoder", "PolyEncoder"]


class _Residual(nn.Module):
    """conv3x3 a -> b, norm, act, conv3x3 b -> c, norm, plus a skip (1x1 where a and c differ), act; then `resize`."""

    def __init__(self, a: int, b: int, c: int, resize: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1, bias=False),
            nn.BatchNorm2d(b),
            nn.LeakyReLU(0.2),
            nn.Conv2d(b, c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
        )
        self.skip = nn.Conv2d(a, c, 1, bias=False) if a != c else nn.Identity()
        self.act, self.resize = nn.LeakyReLU(0.2), resize

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.resize(self.act(self.body(x) + self.skip(x)))
        return y


@register
class PolyEncoder(nn.Module):
    """(B, 3, 28, 28) -> (B, 2 * latent): mean from one half of the last channels, log variance from the other (1.30 M parameters).

    `variance=False` leaves out the second half's layer: (B, latent), for an RAE.
    """

    def __init__(self, latent: int = 64, variance: bool = True) -> None:
        super().__init__()
        half = nn.AvgPool2d
        self.body = nn.Sequential(
            nn.ZeroPad2d(2),
            nn.Conv2d(3, 64, 5, padding=2),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            half(2),
            _Residual(64, 64, 64, half(2)),
            _Residual(64, 128, 128, half(2)),
            _Residual(128, 256, 256, half(2)),
            nn.LeakyReLU(0.2),
        )
        self.mean = nn.Linear(512, latent)
        self.log_variance = nn.Linear(512, latent) if variance else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 28, 28) -> (B, 2 * latent) or (B, latent)."""
        first, second = self.body(x).chunk(2, dim=1)
        mean: Tensor = self.mean(first.flatten(1))
        return mean if self.log_variance is None else torch.cat([mean, self.log_variance(second.flatten(1))], 1)


@register
class PolyDecoder(nn.Module):
    """(B, latent) -> (B, 3, 28, 28): 4 x 4, then nearest upsampling to 32 x 32, of which the middle is kept (1.13 M parameters)."""

    def __init__(self, latent: int = 64) -> None:
        super().__init__()
        self.stem = nn.Linear(latent, 4096)
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.Unflatten(1, (256, 4, 4)),
            _Residual(256, 128, 128, nn.Upsample(scale_factor=2)),
            _Residual(128, 128, 64, nn.Upsample(scale_factor=2)),
            _Residual(64, 64, 64, nn.Upsample(scale_factor=2)),
            _Residual(64, 64, 64, nn.Identity()),
            nn.Conv2d(64, 3, 5, padding=2),
            nn.ZeroPad2d(-2),
        )

    def forward(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, 3, 28, 28)."""
        y: Tensor = self.body(self.stem(z))
        return y
