"""The demo's page: one HTML file that asks nothing of the network."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from torch import Tensor

from polyscore.media.text import code_text
from polyscore.report.demo import ALONE, Demo, Row, Shown, facts
from polyscore.report.pictures import picture_url, sound_url, spectrogram_url

__all__ = ["build"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HERE = Path(__file__).parent
_ABOUT_WORDS = {
    "": "A sound just made goes in; the word comes out, one letter a token.",
    "Text, drawn and spoken": "Only the word is given; picture and sound are drawn by a closed form.",
    "Handwriting, read": "A picture by the same strangers' hands goes in; the word comes out, one letter a token.",
}


def build(demo: Demo) -> str:
    """The whole page."""
    sections = [
        _section(
            "Handwriting, spoken",
            "Real digits by hands the model never saw (scikit-learn's, outlined). It has to say them; every sound is new.",
            _grid(demo, demo.spoken),
            "Hear it count",
        )
    ]
    for name, rows in demo.drawn.items():
        note = f"The {name} it just made (outlined) goes back in, and {len(rows[0].made)} draws come out of each."
        sections.append(_section(f"{name.capitalize()}, drawn", note, _grid(demo, rows, wide=True)))
    together = f"Nothing is given: {_and(demo.composer.modalities)} come from one noise and belong together."
    sections.append(_section("Both at once", together, _grid(demo, demo.joint), "Play all"))
    sections += [_section(title, _ABOUT_WORDS.get(title, _ABOUT_WORDS[""]), _grid(demo, rows)) for title, rows in demo.words.items()]
    sections.append(_section("One sampling, step by step", _about_steps(demo), _strip(demo)))
    sections += [_coherence(demo), _timing(demo)]
    template = Template((HERE / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        kicker=f"polyscore {facts(demo)['versions']['polyscore']} · model {escape(Path(demo.model).name)}",
        title=f"{ {2: 'Two', 3: 'Three', 4: 'Four'}.get(len(demo.composer.codecs), 'Many') } models that never met, one generator.",
        lede=_lede(demo),
        figures="".join(_figure(_share(m), escape(_plain(m))) for m in demo.measures if m.name != ALONE)
        + _figure(f"{demo.seconds:.0f}<small> s</small>", "for everything on this page"),
        sections="\n".join(sections),
        footer=_footer(demo),
    )


def _lede(demo: Demo) -> str:
    return (
        "One autoencoder has only seen handwriting; another has only heard speech. One score over the latents of both makes either from the"
        f" other, or {'both' if len(demo.composer.modalities) == 2 else 'all'} from noise. All below was made just now, on this machine."
    )


def _plain(measure: Shown) -> str:
    return "agreement of what was made together" if measure.name == "joint" else f"{measure.name} coherence"


def _figure(value: str, name: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}</dd></div>"


def _share(measure: Shown) -> str:
    return f"{100 * statistics.fmean(measure.values):.1f}<small> %</small>"


def _section(title: str, note: str, body: str, button: str = "") -> str:
    play = f'<button class="all" type="button">▸ {button}</button>' if button and "<audio" in body else ""
    return f'<section><div class="top"><div><h2>{escape(title)}</h2><p class="note">{escape(note)}</p></div>{play}</div>{body}</section>'


def _grid(demo: Demo, rows: Sequence[Row], wide: bool = False) -> str:
    return f'<div class="grid{" wide" if wide else ""}">{"".join(_card(demo, row) for row in rows)}</div>'


def _card(demo: Demo, row: Row) -> str:
    tiles = [_tile(demo, name, value, given=True) for name, value in row.given.items()]
    tiles += [_tile(demo, name, value) for made in row.made for name, value in made.items()]
    return f'<figure><div class="pair" style="--n:{len(tiles)}">{"".join(tiles)}</div><figcaption>{_caption(row)}</figcaption></figure>'


def _caption(row: Row) -> str:
    if row.label is not None:
        right = [seen[name] == row.label for seen in row.heard for name in seen]
        other = [WORDS[seen[name]] if seen[name] >= 0 else "no word" for seen in row.heard for name in seen if seen[name] != row.label]
        judged = "judges agree" if len(right) > 1 else "judge agrees"
        verdict = judged if all(right) else f"judged {', '.join(other)}"
        return f"<span>{WORDS[row.label]}</span>{_mark(verdict, all(right))}"
    seen = row.heard[0]
    if len(set(seen.values())) <= 1:
        return f"<span>{WORDS[next(iter(seen.values()))]}</span>{_mark('agree', True)}" if seen else "<span></span>"
    return f"<span>{' / '.join(WORDS[label] for label in seen.values())}</span>{_mark('differ', False)}"


def _mark(text: str, good: bool) -> str:
    return f'<span class="mark {"good" if good else "bad"}">{"✓" if good else "✗"} {escape(text)}</span>'


def _tile(demo: Demo, name: str, value: Tensor, given: bool = False, shown: str = "") -> str:
    media = demo.media.get(name, {})
    kind = str(media.get("kind", "json"))
    outline = " given" if given else ""
    about = escape(f"{name}{', given' if given else ''}{shown}")
    if kind == "image":
        return f'<span class="tile ink{outline}"><img alt="{about}" src="{picture_url(value)}"></span>'
    if kind == "audio":
        rate = int(media.get("rate", 8000))
        wave = value.flatten()
        picture = f'<img alt="" src="{spectrogram_url(wave, rate)}"><span class="head"></span><span class="play"></span>'
        sound = f'<audio controls preload="none" src="{sound_url(wave, rate)}"></audio>'
        return f'<button type="button" class="tile sound{outline}" aria-label="play: {about}">{picture}{sound}</button>'
    if kind == "text":
        return f'<span class="tile words{outline}" title="{about}">{escape(code_text(value))}</span>'
    words = " ".join(f"{v:g}" for v in value.flatten()[:24].tolist())
    return f'<span class="tile words{outline}">{escape(words)}</span>'


def _about_steps(demo: Demo) -> str:
    steps = demo.timing.steps if demo.timing else len(demo.strip)
    return f"The network's guess of the clean result at {len(demo.strip)} of {steps + 1} moments: from noise (t = 1) to the sample (t = 0)."


def _strip(demo: Demo) -> str:
    names = list(demo.strip[0][1])
    rows = [[_tile(demo, name, values[name], shown=f" at t = {t:.2f}") for t, values in demo.strip] for name in names]
    times = [f'<span class="time">t = {t:.2f}</span>' for t, _ in demo.strip]
    cells = "".join("".join(row) for row in [*rows, times])
    return f'<div class="scroll"><div class="strip" style="--n:{len(demo.strip)}">{cells}</div></div>'


def _coherence(demo: Demo) -> str:
    bars = []
    for m in demo.measures:
        mean, dots = statistics.fmean(m.values), "".join(f'<i class="dot" style="left:{100 * v:.2f}%"></i>' for v in m.values)
        track = f'<div class="track"><div class="fill" style="width:{100 * mean:.2f}%"></div>{dots}</div>'
        bars.append(f'<div class="bar"><span class="name">{escape(m.name)}</span>{track}<b>{mean:.3f}</b><p>{escape(m.means)}</p></div>')
    first = demo.measures[0] if demo.measures else None
    seeds = len(first.values) if first else 0
    items = [f"<b>n</b> {first.n if first else 0} samples a row and seed, seeds {demo.seed} to {demo.seed + seeds - 1} (the dots)"]
    for name, meta in facts(demo)["judges"].items():
        kind = (
            f"{meta.get('dataset', 'unknown data')}; {meta.get('test_items', '?')} test items, accuracy {meta.get('test_accuracy', 0):.4f}"
        )
        items.append(f"<b>{escape(name)} judge</b> a classifier that took no part in the generator's training: {escape(kind)}")
    items.append("<b>handwriting</b> the last 360 of scikit-learn's 1797 digits (8 x 8, enlarged to 28 x 28): other hands than MNIST's")
    protocol = f'<ul class="protocol">{"".join(f"<li>{item}</li>" for item in items)}</ul>'
    note = "Do what was given and what was made show the same digit? Judged by classifiers, not by eye."
    return _section("Coherence", note, f'<div class="bars">{"".join(bars)}</div>{protocol}')


def _timing(demo: Demo) -> str:
    t = demo.timing
    if t is None:
        return ""
    whole = t.network + t.other
    parts = (("network", "the network", t.network), ("other", "everything else in sampling", t.other), ("decoding", "decoding", t.decoding))
    stack = "".join(f'<span class="{c}" style="flex:{max(s, 1e-6):.6f}"></span>' for c, _, s in parts)
    legend = "".join(
        f'<li><i class="{c}"></i>{name}: {1000 * s:.0f} ms{f" ({100 * s / whole:.0f} % of sampling)" if c != "decoding" else ""}</li>'
        for c, name, s in parts
    )
    note = (
        f"{t.n} joint samples in {t.steps} steps: {t.calls} network calls, {t.evaluations:g} evaluations a sample; "
        f"{t.threads} thread{'s' if t.threads > 1 else ''}, median of {t.runs} runs."
    )
    return _section("Time", note, f'<div class="stack">{stack}</div><ul class="legend">{legend}</ul>')


def _footer(demo: Demo) -> str:
    found = facts(demo)["versions"]
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    options = ", ".join(f"{k} {v}" for k, v in demo.composer.defaults.items()) or "the defaults of sample"
    commands = (f"demo --seed {demo.seed}", f"sample --model {demo.model} --n 10 --seed {demo.seed}", f"inspect {demo.model}")
    shown = "\n".join(f"polyscore {command}" for command in commands)
    return (
        f"<pre>{escape(shown)}</pre><p>Model {escape(demo.model)}, weights {demo.weights}; sampling: {escape(options)}; "
        f"seed {demo.seed}; {escape(versions)}. Spectrograms show the upper 43 dB of each sound.</p>"
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
