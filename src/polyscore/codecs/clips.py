"""Clips as the latent of what they show or say, and when: codecs of pictures and words turned into codecs of videos and sounds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.codecs.base import Codec
from polyscore.codecs.mel import LogMel
from polyscore.spec import register

__all__ = [
    "FPS",
    "FRAMES",
    "RATE",
    "SoundClip",
    "VideoClip",
    "brightest",
    "centred",
    "place",
    "render",
    "timing_of_sound",
    "timing_of_video",
    "video_change",
    "wave_span",
]

FPS, FRAMES, RATE, SAMPLES = 8, 16, 8000, 16000
MIDDLE, SPREAD = 0.625, 12**-0.5
"""Mean and standard deviation of an instant uniform between 0.125 and 1.125 seconds."""
CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
"""Appears, flashes, moves left, moves right: a regular tetrahedron, unit variance in every direction if they are equally likely."""


def render(images: Tensor, instants: Tensor, kinds: Tensor, directions: Tensor) -> Tensor:
    """Videos (B, 16, 28, 28) of digits (B, 1, 28, 28).

    Args:
        instants: seconds (B,); the change falls on frame round(8 instant).
        kinds: 0 appears and stays; 1 is there, and moves from then on by a pixel a frame, six at most; 2 is faint, flashes and fades.
        directions: -1 or 1, of the movement.
    """
    since = torch.arange(FRAMES, device=images.device)[None] - (instants * FPS).round()[:, None]
    after = (since >= 0).float()
    flash = 0.3 + 0.7 * after * torch.exp(-since.clamp(min=0) / 3)
    gain = torch.where(kinds[:, None] == 0, after, torch.where(kinds[:, None] == 1, torch.ones_like(after), flash))
    shift = torch.where(kinds[:, None] == 1, (since + 1).clamp(0, 6) * directions[:, None], torch.zeros_like(since)).long()
    padded = functional.pad(images, (6, 6))[:, 0]
    column = torch.arange(28, device=images.device) + 6 - shift[..., None]
    frames = padded[:, None].expand(-1, FRAMES, -1, -1).gather(3, column[:, :, None].expand(-1, -1, 28, -1))
    return frames * gain[..., None, None]


def place(waves: Tensor, instants: Tensor) -> Tensor:
    """Recordings (B, 8000) at their instants in silence of two seconds, (B, 16000)."""
    return _cut(waves, -(instants * RATE).round().long(), SAMPLES)


def wave_span(waves: Tensor, silence: float = 0.02) -> tuple[Tensor, Tensor]:
    """First and last sample (B,) whose 10 ms level exceeds `silence` times the loudest; 0 and 0 in a silent row."""
    level = functional.avg_pool1d(waves.abs()[:, None], 81, 1, 40, count_include_pad=False)[:, 0]
    loud = level > silence * level.amax(1, keepdim=True)
    last = waves.shape[1] - 1 - loud.byte().flip(1).argmax(1)
    return loud.byte().argmax(1), torch.where(loud.any(1), last, 0)


def centred(waves: Tensor, length: int = 8000) -> tuple[Tensor, Tensor]:
    """What sounds in each row, in the middle of `length` samples, and the instant (B,) in seconds at which it started."""
    first, last = wave_span(waves)
    last = torch.minimum(last, first + length - 1)
    return _cut(waves, first - (length - (last - first + 1)) // 2, length, last), first / RATE


def brightest(video: Tensor) -> Tensor:
    """The frame (B, 1, 28, 28) with most ink of videos (B, 16, 1, 28, 28), the first such."""
    which = video.flatten(2).sum(2).argmax(1)
    return video[torch.arange(len(video), device=video.device), which]


def video_change(video: Tensor) -> Tensor:
    """Frame (B,) of the first change in videos (B, 16, 28, 28) that exceeds half the largest."""
    change = (video[:, 1:] - video[:, :-1]).abs().flatten(2).sum(2)
    return (change > 0.5 * change.amax(1, keepdim=True)).byte().argmax(1) + 1


def timing_of_video(instants: Tensor, kinds: Tensor, directions: Tensor) -> Tensor:
    """(B, 4): the frame of the instant, standardised, and the corner of a tetrahedron for the kind of change."""
    corner = torch.where(kinds == 0, 0, torch.where(kinds == 2, 1, torch.where(directions < 0, 2, 3)))
    when = (instants * FPS).round() / FPS
    return torch.cat([((when - MIDDLE) / SPREAD)[:, None], torch.tensor(CORNERS, device=instants.device)[corner]], 1).float()


def timing_of_sound(instants: Tensor) -> Tensor:
    """(B, 1): the instant, standardised."""
    return ((instants - MIDDLE) / SPREAD)[:, None].float()


def _instants(z: Tensor) -> Tensor:
    return (z * SPREAD + MIDDLE).clamp(1 / FPS, 1.25)


def _cut(waves: Tensor, starts: Tensor, length: int, ends: Tensor | None = None) -> Tensor:
    """`length` samples of each row from its start on, zero outside the row (and after its end)."""
    at = torch.arange(length, device=waves.device)[None] + starts[:, None]
    inside = (at >= 0) & (at < waves.shape[1])
    if ends is not None:
        inside &= at <= ends[:, None]
    return waves.gather(1, at.clamp(0, waves.shape[1] - 1)) * inside


@register
class VideoClip(Codec):
    """(B, 16, 1, 28, 28) videos at 8 frames a second, as `render` makes them, <-> (B, latent + 4): picture, instant, kind of change.

    encode finds the frame of the change, the kind from the ink before it and the direction from where the ink goes, and gives the picture
    at its brightest to the codec of pictures; decode renders. Exact on rendered clips but for the picture's own codec.

    Args:
        picture: codec of (1, 28, 28) pictures with a latent vector.
    """

    def __init__(self, picture: Codec) -> None:
        super().__init__()
        self.picture = picture
        self.data_shape, self.latent_shape = (FRAMES, 1, 28, 28), (picture.latent_shape[0] + 4,)

    def encode(self, x: Tensor) -> Tensor:
        """Videos to latents."""
        video, rows = x[:, :, 0], torch.arange(len(x), device=x.device)
        change = video_change(video)
        ink = video.flatten(2).sum(2)
        share = ink[:, 0] / ink[rows, change].clamp(min=1e-3)
        kinds = torch.where(share < 0.1, 0, torch.where(share > 0.65, 1, 2))
        column = torch.arange(28.0, device=x.device)
        centre = (video.sum(2) * column).sum(2) / ink.clamp(min=1e-3)
        directions = torch.where(centre[:, -1] < centre[:, 0], -1, 1)
        bright = video[rows, torch.where(kinds == 1, 0, change)]
        timing = timing_of_video(change / FPS, kinds, directions)
        return torch.cat([self.picture.encode(bright[:, None]), timing], 1)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to videos."""
        corner = (z[:, -3:] @ torch.tensor(CORNERS, device=z.device).T).argmax(1)
        kinds = torch.tensor([0, 2, 1, 1], device=z.device)[corner]
        return render(self.picture.decode(z[:, :-4]), _instants(z[:, -4]), kinds, torch.where(corner == 2, -1, 1))[:, :, None]


@register
class SoundClip(Codec):
    """(B, 16000) sounds of two seconds at 8 kHz with one word <-> (B, latent + 1): the word, and the instant at which it starts.

    Args:
        word: codec of (8000,) waveforms with the word in their middle, with a latent vector.
    """

    def __init__(self, word: Codec) -> None:
        super().__init__()
        self.word = word
        self.data_shape, self.latent_shape = (SAMPLES,), (word.latent_shape[0] + 1,)

    def encode(self, x: Tensor) -> Tensor:
        """Sounds to latents."""
        middle, instants = centred(x, self.word.data_shape[0])
        return torch.cat([self.word.encode(middle), timing_of_sound(instants)], 1)

    def decode(self, z: Tensor) -> Tensor:
        """Latents to sounds."""
        wave = self.word.decode(z[:, :-1])
        start = (_instants(z[:, -1]) * RATE).round().long()
        return _cut(wave, wave_span(wave, 0.05)[0] - start, SAMPLES) * (torch.arange(SAMPLES, device=z.device) >= start[:, None])


def draft(codec: Codec, iterations: int = 4, updates: int = 4) -> None:
    """Make a codec's decoding of sound fast, in place, with fewer rounds of the vocoder: for measures that do not mind how it sounds."""
    for part in codec.modules():
        if isinstance(part, LogMel):
            part.iterations, part.updates = iterations, updates
