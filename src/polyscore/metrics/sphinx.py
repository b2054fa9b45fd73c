"""An independent judge of spoken digits: pocketsphinx with a ten-word grammar (extra `judge`)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import PolyscoreError

__all__ = ["DIGIT_WORDS", "SphinxJudge"]

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE = 16000
PADDING = 2400


class SphinxJudge:
    """Waveforms (N, L) in [-1, 1] -> index of the word heard, (N,), or -1 for none. Its model is pocketsphinx's own US English one.

    Args:
        words: the grammar: exactly one of these words.
        rate: of the waveforms, in Hz; they are resampled to 16 kHz and padded with 0.15 s of silence on both sides.

    Raises:
        PolyscoreError: pocketsphinx is not installed.
    """

    def __init__(self, words: Sequence[str] = DIGIT_WORDS, rate: int = 8000) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise PolyscoreError("pocketsphinx is not installed: expected `pip install 'polyscore[judge]'`") from error
        self.words, self.rate = tuple(words), rate
        with tempfile.TemporaryDirectory() as folder:
            grammar = Path(folder) / "words.jsgf"
            grammar.write_text(f"#JSGF V1.0;\ngrammar words;\npublic <word> = {' | '.join(self.words)};\n", encoding="utf-8")
            self._decoder: Any = Decoder(jsgf=str(grammar), samprate=RATE, loglevel="FATAL")

    def __call__(self, waves: Tensor) -> Tensor:
        """(N, L) -> (N,) int64."""
        from scipy.signal import resample_poly

        common = gcd(RATE, self.rate)
        fast = resample_poly(waves.detach().cpu().double().numpy(), RATE // common, self.rate // common, axis=1)
        padded = np.pad(fast, ((0, 0), (PADDING, PADDING)))
        pcm = (padded * 32767).clip(-32768, 32767).astype(np.int16)
        return torch.tensor([self._hear(row.tobytes()) for row in pcm], dtype=torch.int64)

    def _hear(self, pcm: bytes) -> int:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return self.words.index(heard.hypstr) if heard and heard.hypstr in self.words else -1
