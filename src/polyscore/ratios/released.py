"""The discriminators that MMDisCo's authors released, as ratios of this library.

Their four files are PyTorch pickles, which polyscore does not open. Convert one once, with torch alone, to NAME.safetensors:
a flat {name: tensor} dictionary. The names are those of their module `MultimodalDiscriminator`, read from the repository
(SonyResearch/MMDisCo); the files themselves were never opened here, so the shapes are those that their configurations imply.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from polyscore.checkpoint import load_state, load_tensors
from polyscore.errors import PolyscoreError
from polyscore.networks.streams import StreamNetwork
from polyscore.paths import Path
from polyscore.ratios.discriminator import Discriminator

__all__ = ["RELEASED", "Release", "load_released", "released_names", "translate"]


@dataclass(frozen=True)
class Release:
    """One released discriminator: shapes of the states without the batch (video: frames first; sound: time before mel)."""

    video: tuple[int, ...]
    audio: tuple[int, ...]
    audio_kind: Literal["waveform", "spectrogram"]
    width: int
    blocks: int
    max_dilation: int = 1
    text: tuple[int, int] | None = None
    fusion: Literal["mlp", "transformer"] = "mlp"

    def network(self, axes: Mapping[str, Sequence[int]] | None = None) -> StreamNetwork:
        """The network, without its weights, for states whose axes it takes in these orders (`StreamNetwork`)."""
        shapes = {"video": self.video, "audio": self.audio}
        for name, order in (axes or {}).items():
            if name in shapes and sorted(order) == list(range(len(shapes[name]))):
                shapes[name] = tuple(shapes[name][list(order).index(axis)] for axis in range(len(order)))
        return StreamNetwork(
            shapes,
            width=self.width,
            blocks=self.blocks,
            kinds={"audio": self.audio_kind},
            max_dilation=self.max_dilation,
            text=dict(zip(("video", "audio"), self.text, strict=True)) if self.text else None,
            fusion=self.fusion,
            axes=axes,
        )


_MM = Release((16, 3, 64, 64), (1, 25600), "waveform", 128, 2, 10)
RELEASED: dict[str, Release] = {
    "mmdiffusion_landscape": _MM,
    "mmdiffusion_aist++": _MM,
    "audioldm_animediff_vggsound": Release((16, 4, 32, 32), (8, 50, 16), "spectrogram", 128, 4, text=(768, 512)),
    "auffusion_videocrafter2_vggsound": Release(
        (16, 4, 32, 32), (4, 25, 32), "spectrogram", 128, 4, text=(1024, 768), fusion="transformer"
    ),
}
"""By the names of their configuration files."""

# Ours -> theirs, tried in order; N is the number of a residual block (theirs counts the stem as block 0).
_RULES = (
    (r"time\.0\.(\w+)", r"time_embed.projection.linear_1.\1"),
    (r"time\.2\.(\w+)", r"time_embed.projection.linear_2.\1"),
    (r"text\.(video|audio)\.(\w+)", r"\1_text_embed.\2"),
    (r"streams\.(video|audio)\.stem\.(.*)", r"feature_extractor.input_blocks.0.0.\1_conv.\2"),
    (r"streams\.(video|audio)\.blocks\.(\d+)\.norm\.(\w+)", r"feature_extractor.input_blocks.@\2.0.\1_in_layers.0.GroupNorm.\3"),
    (r"streams\.(video|audio)\.blocks\.(\d+)\.conv\.(.*)", r"feature_extractor.input_blocks.@\2.0.\1_in_layers.2.\3"),
    (r"streams\.(video|audio)\.blocks\.(\d+)\.modulation\.(\w+)", r"feature_extractor.input_blocks.@\2.0.\1_out_layers.0.projection.1.\3"),
    (r"streams\.(video|audio)\.blocks\.(\d+)\.out\.(.*)", r"feature_extractor.input_blocks.@\2.0.\1_out_layers.3.\3"),
    (r"streams\.(video|audio)\.blocks\.(\d+)\.skip\.(.*)", r"feature_extractor.input_blocks.@\2.0.\1_skip_connection.\3"),
    (r"fusion\.token", "fusion_model.fm.cls_emb"),
    (r"fusion\.positions", "fusion_model.fm.pos_emb.emb.weight"),
    (r"fusion\.inputs\.0\.(\w+)", r"fusion_model.fm_video_in.\1"),
    (r"fusion\.inputs\.1\.(\w+)", r"fusion_model.fm_audio_in.\1"),
    (r"fusion\.time\.(\w+)", r"fusion_model.fm_time_in.\1"),
    (r"fusion\.norm\.(\w+)", r"fusion_model.fm.norm.\1"),
    (r"fusion\.last\.(\w+)", r"fusion_model.fm.out_layer.\1"),
    (r"fusion\.layers\.(\d+)\.norm1\.(\w+)", r"fusion_model.fm.attn_layers.layers.#\1.0.\2"),
    (r"fusion\.layers\.(\d+)\.attention\.(q|k|v)\.(\w+)", r"fusion_model.fm.attn_layers.layers.#\1.1.to_\2.\3"),
    (r"fusion\.layers\.(\d+)\.attention\.out\.(\w+)", r"fusion_model.fm.attn_layers.layers.#\1.1.to_out.\2"),
    (r"fusion\.layers\.(\d+)\.norm2\.(\w+)", r"fusion_model.fm.attn_layers.layers.+\1.0.\2"),
    (r"fusion\.layers\.(\d+)\.mlp\.0\.(\w+)", r"fusion_model.fm.attn_layers.layers.+\1.1.net.0.0.\2"),
    (r"fusion\.layers\.(\d+)\.mlp\.2\.(\w+)", r"fusion_model.fm.attn_layers.layers.+\1.1.net.2.\2"),
    (r"head\.(\w+)", r"last_linear.\1"),
)
_NUMBERS = {"@": lambda n: n + 1, "#": lambda n: 2 * n, "+": lambda n: 2 * n + 1}


def released_names(network: StreamNetwork) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{our name: (their name, their shape)} of every tensor."""
    return {ours: (_theirs(ours), _their_shape(ours, tuple(value.shape))) for ours, value in network.state_dict().items()}


def _theirs(ours: str) -> str:
    for pattern, replacement in _RULES:
        if re.fullmatch(pattern, ours):
            found = re.sub(pattern, replacement, ours)
            found = re.sub(r"([@#+])(\d+)", lambda m: str(_NUMBERS[m[1]](int(m[2]))), found)
            return _conv(found)
    raise PolyscoreError(f"released discriminator: no counterpart of tensor {ours!r}")


def _conv(name: str) -> str:
    """The last part of a convolution's name: theirs has one more level, by kind."""
    if "input_blocks" not in name or not re.search(r"\.(space|time)\.\w+$", name):
        return name
    video = ".video_" in name
    pointwise = "_out_layers.3." in name or "_skip_connection." in name
    if not video:
        return name.replace(".space.", ".audio_conv.")
    if pointwise:
        return name.replace(".space.", ".video_conv.")
    return name.replace(".space.", ".video_conv_spatial.").replace(".time.", ".video_conv_temporal.")


def _their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Their 1-kernels of video are three-dimensional, their class token has a batch axis as ours has."""
    pointwise = ours.startswith("streams.video.") and (".out.space.weight" in ours or ".skip.space.weight" in ours)
    return (*shape, 1) if pointwise else shape


def translate(tensors: Mapping[str, Tensor], network: StreamNetwork, source: object = "state dict") -> dict[str, Tensor]:
    """Their state dict under our names.

    Raises:
        PolyscoreError: a tensor is missing, unknown, or of another shape.
    """
    known = released_names(network)
    found: dict[str, Tensor] = {}
    for ours, (theirs, shape) in known.items():
        if theirs not in tensors:
            raise PolyscoreError(f"{source}: tensor {theirs!r} is missing")
        if tuple(tensors[theirs].shape) != shape:
            raise PolyscoreError(f"{source}: tensor {theirs!r} has shape {tuple(tensors[theirs].shape)}, expected {shape}")
        found[ours] = tensors[theirs].reshape(network.state_dict()[ours].shape).to(torch.float32)
    unknown = sorted(set(tensors) - {theirs for theirs, _ in known.values()})
    if unknown:
        raise PolyscoreError(f"{source}: unknown tensor {unknown[0]!r} ({len(unknown)} in all)")
    return found


def load_released(
    path: str | os.PathLike[str],
    release: str | Release,
    paths: Mapping[str, Path],
    smoothing: float | None = 1e-5,
    axes: Mapping[str, Sequence[int]] | None = None,
) -> Discriminator:
    """A released discriminator from its converted file, for states named video and audio.

    Args:
        path: NAME.safetensors. release: a key of `RELEASED`, or another size. paths: of "video" and "audio": those of the base models.
        smoothing: of the log ratio; 1e-5 as in their code, None for the raw logit, which does not saturate.
        axes: where the states have another order of axes than the release: its axis k is the state's axis axes[modality][k]. Videos of
            diffusers (C, F, H, W): (1, 0, 2, 3); Auffusion's sound (C, mel, time): (0, 2, 1). Gradients come back in the state's order.

    Raises:
        PolyscoreError: an unknown release, or tensors that do not fit it. CheckpointError: an unreadable file.
    """
    if isinstance(release, str) and release not in RELEASED:
        raise PolyscoreError(f"released discriminator {release!r}: expected one of {', '.join(RELEASED)}")
    chosen = RELEASED[release] if isinstance(release, str) else release
    network = chosen.network(axes)
    load_state(network, translate(load_tensors(path), network, path), path)
    return Discriminator(network, {name: paths[name] for name in ("video", "audio")}, smoothing).eval()
