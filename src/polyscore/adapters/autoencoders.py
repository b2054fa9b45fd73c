"""A diffusers autoencoder of pictures as a codec, without a pipeline: AutoencoderKL, AutoencoderTiny, AutoencoderDC and their kin."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.adapters.pipelines import fingerprint as fingerprint_of
from polyscore.codecs.base import Codec
from polyscore.codecs.foreign import data_of, latent_of, same_shape
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.spec import register

__all__ = ["DiffusersCodec", "dimensions", "load_autoencoder", "scaling_of"]

NAME = "_class_name"


@register
class DiffusersCodec(Codec):
    """encode: pictures (C, H, W) in [0, 1] -> (latent - shift) * scale of the autoencoder's configuration; decode: the way back.

    The latent is the mean of the posterior, where there is one. Grey pictures are copied to, and averaged over, an autoencoder's three
    channels. It is frozen. A source by name is saved by name, with a fingerprint of its weights; a module in memory is saved with its
    configuration and weights. For a joint score, put it into `polyscore.codecs.Standardised`: its latents
    have no unit variance.

    Args:
        source: folder or hub id of the autoencoder or of a pipeline that has one; a diffusers autoencoder in memory; or a configuration
            (what a checkpoint holds; its weights are then random until they are loaded).
        data_shape: (C, H, W). fingerprint: of the weights, when stored: others at `source` are then refused.

    Raises:
        CheckpointError: a source that cannot be loaded or has changed. PolyscoreError: no such autoencoder, or pictures it cannot take.
    """

    def __init__(self, source: Any, data_shape: Sequence[int], fingerprint: str | None = None) -> None:
        super().__init__()
        vae = load_autoencoder(source) if isinstance(source, str) else _built(source) if isinstance(source, Mapping) else source
        _check(vae)
        vae.float().eval().requires_grad_(False)
        if isinstance(source, str):
            found = fingerprint_of(vae)
            if fingerprint not in (None, found):
                raise CheckpointError(f"{source}: expected an autoencoder with weights {fingerprint}, found {found}")
            self._vae: Any = (vae,)  # in a tuple: its weights stay where they are
            fingerprint = found
        else:
            self.module = vae
        self.data_shape = tuple(data_shape)
        self._grey = self.data_shape[:1] == (1,) and vae.config.in_channels == 3
        self.latent_shape = same_shape(type(vae).__name__, self, self.data_shape)
        if "_spec" in self.__dict__:
            stored = source if isinstance(source, str) else _configuration(vae)
            self._spec: dict[str, Any] = {"source": stored, "data_shape": list(self.data_shape), "fingerprint": fingerprint}

    @classmethod
    def load(cls, source: str, data_shape: Sequence[int], copy: bool = False) -> DiffusersCodec:
        """From a folder or hub id; with `copy` the weights are saved with the codec. A folder is remembered by its whole path."""
        place = str(Path(source).resolve()) if Path(source).exists() else source
        return cls(load_autoencoder(place) if copy else place, data_shape)

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self._vae[0] if "_vae" in self.__dict__ else self.module

    def train(self, mode: bool = True) -> DiffusersCodec:
        """It stays in evaluation mode."""
        return super().train(False)

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, *latent_shape)."""
        return self.posterior(x)[0]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent, (B, *latent_shape) each; zeros where the autoencoder is deterministic."""
        mean, deviation = latent_of(self.vae.encode(2 * (x.expand(-1, 3, -1, -1) if self._grey else x) - 1))
        shift, scale = scaling_of(self.vae, mean)
        return (mean - shift) * scale, deviation * scale

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, C, H, W), clamped to [0, 1]."""
        shift, scale = scaling_of(self.vae, z)
        x = ((data_of(self.vae.decode(z / scale + shift)) + 1) / 2).clamp(0, 1)
        return x.mean(1, keepdim=True) if self._grey else x


@functools.lru_cache(maxsize=16)
def load_autoencoder(source: str) -> Any:
    """A diffusers autoencoder from a folder or hub id, its own or a pipeline's, in float32, from safetensors only; loaded once.

    Raises:
        CheckpointError: nothing there, files that cannot be used, or diffusers is not installed.
    """
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise CheckpointError(f"{source}: needs diffusers; install it with: pip install 'polyscore[pipelines]'") from error
    place, inside = Path(source), dict[str, Any]()
    if (place / "model_index.json").is_file():
        inside = {"subfolder": next((part for part in ("vae", "vqvae") if (place / part).is_dir()), "vae")}
    elif place.exists() and not (place / "config.json").is_file():
        raise CheckpointError(f"{source}: expected a diffusers autoencoder with config.json, found none")
    try:
        config: Any = AutoencoderKL.load_config(source, **inside)
        return _class(config.get(NAME)).from_pretrained(source, use_safetensors=True, **inside)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{source}: not a diffusers autoencoder that can be loaded ({reason})") from error


def scaling_of(vae: Any, like: Tensor) -> tuple[Any, Any]:
    """Shift and scale of an autoencoder's configuration: z = (raw - shift) * scale."""
    config = vae.config
    mean, std = (_statistic(vae, name) for name in ("latents_mean", "latents_std"))
    factor = getattr(config, "scaling_factor", None) or 1.0
    if mean is not None and std is not None:
        shape = (1, -1, *[1] * (like.ndim - 2))
        factor = 1.0 if type(vae).__name__ == "AutoencoderKLWan" else factor
        return mean.reshape(shape).to(like), factor / std.reshape(shape).to(like)
    return getattr(config, "shift_factor", None) or 0.0, factor


def dimensions(vae: nn.Module) -> int:
    """4 for pictures, 5 for videos: the rank of what the encoder's convolutions take."""
    return 5 if any(isinstance(m, nn.Conv3d) for m in vae.modules()) else 4


def _statistic(vae: nn.Module, name: str) -> Tensor | None:
    value = dict(vae.named_buffers()).get(name)
    value = getattr(vae.config, name, None) if value is None else value
    return None if value is None else torch.as_tensor(value, dtype=torch.float32)


def _class(name: Any) -> Any:
    """A diffusers model class with encode and decode, by its name."""
    import diffusers

    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    fits = isinstance(found, type) and issubclass(found, diffusers.ModelMixin)
    if not fits or not (hasattr(found, "encode") and hasattr(found, "decode")):
        raise PolyscoreError(f"autoencoder: expected the name of a diffusers autoencoder such as AutoencoderKL, found {name!r}")
    return found


def _built(config: Mapping[str, Any]) -> Any:
    """An autoencoder of this configuration, with random weights."""
    with torch.random.fork_rng(devices=[]):
        return _class(config.get(NAME)).from_config({k: v for k, v in config.items() if k != NAME})


def _configuration(vae: Any) -> dict[str, Any]:
    known = inspect.signature(type(vae).__init__).parameters
    return {NAME: type(vae).__name__} | {k: v for k, v in vae.config.items() if k in known}


def _check(vae: Any) -> None:
    if not (isinstance(vae, nn.Module) and hasattr(vae, "config") and hasattr(vae, "encode") and hasattr(vae, "decode")):
        found = type(vae).__name__
        raise PolyscoreError(f"DiffusersCodec: expected a diffusers autoencoder, its folder or hub id, found {found} (else: ForeignCodec)")
    if dimensions(vae) == 5 or not any(isinstance(m, nn.Conv2d) for m in vae.modules()):
        raise PolyscoreError(f"DiffusersCodec: expected an autoencoder of pictures, found {type(vae).__name__}")
