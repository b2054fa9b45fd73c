"""The autoencoder of a diffusers pipeline as a codec: data in polyscore's ranges <-> latents in the pipeline's own scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polyscore.adapters.autoencoders import dimensions, scaling_of
from polyscore.adapters.pipelines import fingerprint as fingerprint_of
from polyscore.adapters.pipelines import load_pipeline
from polyscore.codecs.base import Codec
from polyscore.codecs.foreign import latent_of
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.spec import register

__all__ = ["PipelineCodec", "codec_of", "frames_a_second", "media_of", "sample_rate"]

_FLOOR = 1e-5


@register
class PipelineCodec(Codec):
    """encode: data -> (latent - shift) * scale of the pipeline's autoencoder (the mean of its posterior); decode: the way back.

    Data: image (C, H, W) and video (F, C, H, W) in [0, 1], audio (L,) in [-1, 1], mono (copied to, and averaged over, the channels of
    a stereo autoencoder). AudioLDM's waveforms go through its log-mel spectrogram (STFT of 1024, hop 160, natural logarithm of at
    least 1e-5) and its vocoder. Without an autoencoder the latent is the picture in [-1, 1]. Its weights stay with the pipeline.

    Args:
        source: folder or hub id of the pipeline, or a pipeline in memory. latent_shape: of the expert's states.
        modality: "image", "video" or "audio". data_shape: found by decoding once, if not given; a shorter sound is a cut.
        fingerprint: of the autoencoder's weights, when stored: others at `source` are then refused.

    Raises:
        CheckpointError: a source that cannot be loaded or has changed. PolyscoreError: an autoencoder in place of a pipeline.
    """

    def __init__(
        self,
        source: Any,
        latent_shape: Sequence[int],
        modality: str = "image",
        data_shape: Sequence[int] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        if isinstance(source, nn.Module):
            raise PolyscoreError(f"PipelineCodec: expected a pipeline, found {type(source).__name__} alone (use DiffusersCodec)")
        self._pipe = load_pipeline(source) if isinstance(source, str) else source
        self._vae: Any = (getattr(self._pipe, "vae", None) or getattr(self._pipe, "vqvae", None),)
        parts = [part for part in (self.vae, getattr(self._pipe, "vocoder", None)) if part is not None]
        found = fingerprint_of(*parts)
        if fingerprint is not None and fingerprint != found:
            raise CheckpointError(f"{source}: expected an autoencoder with weights {fingerprint}, found {found}")
        self.modality, self.latent_shape = modality, tuple(latent_shape)
        self._full: tuple[int, ...] = ()
        if data_shape is None or modality == "audio":
            with torch.no_grad():
                self._full = tuple(self._decode(torch.zeros(1, *self.latent_shape)).shape[1:])
        self.data_shape = tuple(data_shape or self._full)
        if "_spec" in self.__dict__:
            self._spec: dict[str, Any] = {**self.__dict__["_spec"], "data_shape": list(self.data_shape), "fingerprint": found}

    @property
    def vae(self) -> Any:
        """The pipeline's autoencoder, or None."""
        return self._vae[0]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """(B, *data_shape) -> (B, *latent_shape)."""
        if self.modality == "audio":
            return self._encode_audio(functional.pad(x, (0, self._full[0] - x.shape[-1])))
        x = 2 * x - 1
        return self._frames(x, self._latent) if self.modality == "video" else self._latent(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, *data_shape)."""
        found = self._decode(z)
        return found[:, : self.data_shape[0]] if self.modality == "audio" else found

    def _decode(self, z: Tensor) -> Tensor:
        if self.modality == "audio":
            return self._decode_audio(z)
        x = self._frames(z.transpose(1, 2), self._data, back=True) if self.modality == "video" else self._data(z)
        return ((x + 1) / 2).clamp(0, 1)

    def _latent(self, x: Tensor) -> Tensor:
        if self.vae is None:
            return x
        raw, _ = latent_of(self.vae.encode(x.to(self._weight())))
        shift, scale = scaling_of(self.vae, raw)
        return ((raw - shift) * scale).to(x)

    def _data(self, z: Tensor) -> Tensor:
        if self.vae is None:
            return z
        shift, scale = scaling_of(self.vae, z)
        found: Tensor = self.vae.decode((z / scale + shift).to(self._weight()), return_dict=False)[0]
        return found.to(z)

    def _frames(self, x: Tensor, function: Any, back: bool = False) -> Tensor:
        """Frames (B, F, C, H, W) one by one through a picture autoencoder, together through a video's; encoding puts C first."""
        if self.vae is None or dimensions(self.vae) == 4:
            found: Tensor = function(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            return found if back else found.transpose(1, 2)
        found = function(x.transpose(1, 2))
        return found.transpose(1, 2) if back else found

    def _encode_audio(self, x: Tensor) -> Tensor:
        if hasattr(self._pipe, "vocoder"):
            mel = _log_mel(x, self._pipe.vocoder.config)
            rows = self.latent_shape[1] * self._pipe.vae_scale_factor
            return self._latent(functional.pad(mel, (0, 0, 0, max(0, rows - mel.shape[1])), value=math.log(_FLOOR))[:, None, :rows])
        channels = self.vae.config.audio_channels
        return self._latent(x[:, None].expand(-1, channels, -1).contiguous())

    def _decode_audio(self, z: Tensor) -> Tensor:
        if hasattr(self._pipe, "vocoder"):
            wave: Tensor = self._pipe.mel_spectrogram_to_waveform(self._data(z))
            return wave.to(z)
        return self._data(z).mean(1)

    def _weight(self) -> Tensor:
        return next(iter(self.vae.parameters()))


def codec_of(expert: Any, data_shape: Sequence[int] | None = None) -> PipelineCodec:
    """The codec of a `PipelineExpert`'s own pipeline."""
    return PipelineCodec(expert.source, expert.shapes[expert.modality], expert.kind, data_shape)


def media_of(expert: Any) -> dict[str, Any]:
    """What an ordinary file of the expert's data is, as a Composer stores it."""
    kind = expert.kind
    if kind == "audio":
        return {"kind": kind, "rate": sample_rate(expert.pipe)}
    return {"kind": kind, "fps": frames_a_second(expert.pipe, expert.arguments)} if kind == "video" else {"kind": kind}


def sample_rate(pipe: Any) -> int:
    """Of the pipeline's sounds, in Hz.

    Raises:
        PolyscoreError: a pipeline without sound.
    """
    for part in (getattr(pipe, "vocoder", None), getattr(pipe, "vae", None)):
        rate = getattr(getattr(part, "config", None), "sampling_rate", None)
        if rate:
            return int(rate)
    raise PolyscoreError(f"{type(pipe).__name__}: expected a vocoder or autoencoder with a sampling rate, found none")


def frames_a_second(pipe: Any, call: Any) -> float:
    """Of the pipeline's videos: its `frame_rate` argument, or what its makers show it with (AnimateDiff 8, Wan 16)."""
    import inspect

    own = inspect.signature(type(pipe).__call__).parameters.get("frame_rate")
    if own is not None:
        return float(call.get("frame_rate") or own.default)
    return 16.0 if type(pipe).__name__.startswith("Wan") else 8.0


def _log_mel(x: Tensor, vocoder: Any) -> Tensor:
    """(B, L) -> (B, T, mels): log of the mel-weighted magnitudes, as AudioLDM was trained (HiFi-GAN's spectrogram, 0 to 8 kHz)."""
    import librosa

    hop = math.prod(vocoder.upsample_rates)
    window = round(6.4 * hop)
    pad = (window - hop) // 2
    wave = functional.pad(x[:, None], (pad, pad), mode="reflect")[:, 0]
    spectrum = torch.stft(wave, window, hop, window=torch.hann_window(window).to(x), center=False, return_complex=True).abs()
    top = min(8000, vocoder.sampling_rate / 2)
    bank = librosa.filters.mel(sr=vocoder.sampling_rate, n_fft=window, n_mels=vocoder.model_in_dim, fmin=0, fmax=top)
    mel = torch.from_numpy(bank).to(x) @ spectrum
    return mel.clamp(min=_FLOOR).log().transpose(1, 2)
