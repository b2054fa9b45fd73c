"""Objectives of autoencoders. They never see a label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from polyscore.codecs.vae import RAE, VAE
from polyscore.training.draws import Draw

__all__ = ["Likelihood", "RAEObjective", "VAEObjective", "distortion", "kl_to_standard_normal"]

Likelihood = Literal["bernoulli", "categorical", "gaussian", "laplace", "absolute"]


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) || N(0, 1)) of each dimension, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def distortion(likelihood: Likelihood, x: Tensor, raw: Tensor, scale: float = 0.5**0.5) -> Tensor:
    """Negative log-likelihood of each item without its constant, (B,); formulas as in `VAEObjective`."""
    if likelihood == "bernoulli":
        each = functional.binary_cross_entropy_with_logits(raw, x, reduction="none")
    elif likelihood == "categorical":
        each = -x * raw.log_softmax(1)
    elif likelihood == "gaussian":
        each = (raw - x).square() / (2 * scale**2)
    else:
        each = (raw - x).abs() / scale
    return each.flatten(1).sum(1)


@dataclass(frozen=True)
class VAEObjective:
    """D(x, decoder(u)) + beta * KL(q(u|x) || N(0, I)), u ~ q(u|x); both terms are sums over one item's entries.

    D by `distortion`, with r the decoder's raw output:
        bernoulli    -sum x log sigmoid(r) + (1 - x) log sigmoid(-r), data in [0, 1];
        categorical  -sum x log softmax(r) over dimension 1, data one-hot (B, K, ...);
        gaussian     sum (x - r)^2 / (2 scale^2); scale^2 = 1/2 is the sum of squares of the Score-Based Multimodal Autoencoder;
        laplace      sum |x - r| / scale;
        absolute     the same with scale 1 for maps (B, H, W), averaged over the resolutions in `pools` (1 is the map itself, k its k x k
                     averages, each counted as if at full size).
    Constants of the likelihood are left out.

    Args:
        modality: the batch entry to read.
        beta: weight of the KL term. Higher gives a smoother, simpler latent; lower a sharper copy.
        scale: of the Gaussian (standard deviation) and the Laplace likelihood.
        change: random change of the data before it is encoded (augmentation, or a fixed transform such as log-mel).
    """

    modality: str
    beta: float = 1.0
    distortion: Likelihood = "absolute"
    pools: Sequence[int] = (1,)
    change: Callable[[Tensor, Draw], Tensor] | None = None
    scale: float = 0.5**0.5

    def __call__(self, module: VAE, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and its parts, means over the batch."""
        x = batch[self.modality]
        if self.change is not None:
            x = self.change(x, draw)
        mean, log_variance = module.encode_raw(x)
        u = mean + (log_variance / 2).exp() * draw.normal(mean.shape[1])
        distortion = self._distortion(x, module.decode_raw(u)).mean()
        kl = kl_to_standard_normal(mean, log_variance).sum(1).mean()
        return {"loss": distortion + self.beta * kl, "distortion": distortion, "kl": kl}

    def _distortion(self, x: Tensor, raw: Tensor) -> Tensor:
        if self.distortion != "absolute":
            return distortion(self.distortion, x, raw, self.scale)
        difference = (raw - x).unsqueeze(1)
        levels = [difference if k == 1 else functional.avg_pool2d(difference, k) for k in self.pools]
        return sum((d.abs().flatten(1).mean(1) for d in levels), x.new_zeros(len(x))) * (x[0].numel() / len(levels))


@dataclass(frozen=True)
class RAEObjective:
    """D(x, decoder(u + noise n)) + beta |u|^2, u = encoder(x), n ~ N(0, I); sums over one item's entries, mean over items.

    `noise` is a standard deviation (the paper calls it a variance), and the norm is that of the latent before the noise.
    Source: Score-Based Multimodal Autoencoder, Eq. 10 without a decoder term; PolyMNIST: noise 0.01, beta 1e-5, sum of squares.

    Args:
        modality: the batch entry to read. distortion, scale: as in `VAEObjective`, without "absolute".
    """

    modality: str
    beta: float = 1e-5
    noise: float = 0.01
    distortion: Likelihood = "gaussian"
    scale: float = 0.5**0.5

    def __call__(self, module: RAE, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and its parts, means over the batch."""
        x = batch[self.modality]
        u = module.encode_raw(x)
        rebuilt = module.decode_raw(u + self.noise * draw.normal(u.shape[1]))
        apart, norm = distortion(self.distortion, x, rebuilt, self.scale).mean(), u.square().sum(1).mean()
        return {"loss": apart + self.beta * norm, "distortion": apart, "norm": norm}
