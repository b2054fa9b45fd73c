"""Log density ratios: what turns independent experts into a joint law."""

from __future__ import annotations

from polyscore.ratios import contrastive, discriminator, energy, subset  # noqa: F401  (their classes register themselves)
