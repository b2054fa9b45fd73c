"""The demo's page: one file, nothing from outside, true numbers."""

from __future__ import annotations

import base64
import io
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from polyscore.composer import WEIGHTS, Composer
from polyscore.data.digits import load_sklearn_digits
from polyscore.errors import PolyscoreError
from polyscore.report.demo import one_of_each, run_demo
from polyscore.report.pictures import picture_url, sound_url, spectrogram, spectrogram_url
from polyscore.report.timing import network_seconds, time_sampling
from tiny import tiny_composer


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tiny_model, tiny_judges, tmp_path_factory):
    seen = []
    out = tmp_path_factory.mktemp("demo")
    file = run_demo(out, 3, lambda done, total: seen.append((done, total)), model=tiny_model, judges=tiny_judges, n=6, seeds=2)
    assert [p.name for p in out.iterdir()] == ["index.html"] and seen == [(i, 7) for i in range(1, 8)]
    return file.read_text()


def test_the_page_asks_nothing_of_the_network(page):
    found = Page(page)
    assert found.open == []
    assert all(link.startswith("data:") for link in found.links)
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import|url\(|fetch\(|XMLHttp", re.sub(r'"data:[^"]*"', "", page))
    assert "default-src 'none'" in page and "$" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_shows_every_part(page):
    for title in ("Handwriting, spoken", "Speech, drawn", "Both at once", "One sampling, step by step", "Coherence", "Time"):
        assert f"<h2>{title}</h2>" in page
    found = Page(page)
    steps = len(re.findall(r'class="time"', page))
    assert steps == 5  # 4 steps and the result
    assert found.tags.count("audio") == 10 + 10 + 10 + steps
    assert found.tags.count("img") == 2 * 10 + 4 * 10 + 2 * 10 + 2 * steps
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page and '<html lang="en">' in page


@pytest.mark.skipif(not (WEIGHTS / "words" / "composer.json").exists(), reason="the weights are not here yet")
def test_the_page_has_words(tmp_path):
    """Text drawn and spoken, handwriting and speech read: by the shipped words, beside the shipped digits; most of it right."""
    page = run_demo(tmp_path, judges=tmp_path, n=2, seeds=1).read_text()
    parts = dict(re.findall(r"<h2>([^<]+)</h2>(.*?)(?=<h2>|$)", page, flags=re.DOTALL))
    assert {"Text, drawn and spoken", "Handwriting, read", "Speech, written down"} <= set(parts)
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert all(name in parts["Text, drawn and spoken"] for name in names)
    told = parts["Text, drawn and spoken"]
    assert told.count("<audio") == 10 and told.count("<img") == 20
    for title in ("Handwriting, read", "Speech, written down"):
        assert sum(name in parts[title] for name in names) >= 7, title


def test_the_numbers_are_those_of_the_judges(page, tiny_model, tiny_judges):
    from polyscore.checkpoint import load_module
    from polyscore.metrics.judges import Judge, predict

    composer, data = Composer.load(tiny_model), load_sklearn_digits("test")
    judges = {name: load_module(tiny_judges / name, Judge) for name in ("image", "speech")}
    shares = {"handwriting alone": [], "image → speech": [], "speech → image": [], "joint": []}
    for seed in (3, 4):
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:6]
        speech = composer.sample(6, {"image": data.x[rows]}, seed=seed)["speech"]
        image = composer.sample(6, {"speech": speech}, seed=seed + 1000)["image"]
        joint = composer.sample(6, seed=seed)
        heard = predict(judges["speech"], speech)[0]
        shares["handwriting alone"].append(float((predict(judges["image"], data.x[rows])[0] == data.labels[rows]).double().mean()))
        shares["image → speech"].append(float((heard == data.labels[rows]).double().mean()))
        shares["speech → image"].append(float((predict(judges["image"], image)[0] == heard).double().mean()))
        both = [predict(judges[name], joint[name])[0] for name in ("image", "speech")]
        shares["joint"].append(float((both[0] == both[1]).double().mean()))
    for name, values in shares.items():
        shown = re.search(rf'<span class="name">{name}</span>.*?<b>([\d.]+)</b>', page)
        assert float(shown[1]) == pytest.approx(np.mean(values), abs=6e-4)
    assert "<b>n</b> 6 samples a row and seed, seeds 3 to 4" in page and "accuracy 0.1000" in page


def test_what_is_inside_can_be_seen_and_heard(page):
    pictures = [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert {p.size for p in pictures} == {(28, 28), (80, 64)}
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(re.search(r'src="data:audio/wav;base64,([^"]+)"', page)[1])))
    assert (len(wave), rate) == (8000, 8000) and np.abs(wave).max() > 0


def test_a_model_without_digits_is_refused(tiny_judges, tmp_path):
    composer = tiny_composer()
    del composer.codecs["image"]
    with pytest.raises(PolyscoreError, match="expected a model of digits"):
        run_demo(tmp_path / "out", model=composer.save(tmp_path / "model"), judges=tiny_judges)
    assert not (tmp_path / "out").exists()


def test_no_judges_no_numbers(tiny_model, tmp_path):
    page = run_demo(tmp_path / "out", model=tiny_model, judges=tmp_path, n=2, seeds=1).read_text()
    assert 'class="bar"' not in page and "<h2>Both at once</h2>" in page


def test_one_of_each_digit():
    data = load_sklearn_digits("test")
    assert data.labels[one_of_each(data, 0)].tolist() == list(range(10))
    assert one_of_each(data, 0) == one_of_each(data, 0) != one_of_each(data, 1)


def test_pictures_and_sounds_as_urls():
    image = torch.linspace(0, 1, 12).reshape(1, 3, 4)
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture_url(image).split(",")[1]))))
    assert grey.shape == (3, 4, 3) and grey[0, 0].tolist() == [20, 18, 30] and grey[-1, -1].tolist() == [243, 239, 230]
    colour = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture_url(torch.rand(3, 3, 4)).split(",")[1]))))
    assert colour.shape == (3, 4, 3)
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)
    levels = spectrogram(tone, 8000)
    centre = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 4000 / 700)) * 65 - 1  # the band of 1 kHz on the mel scale
    assert abs(int(levels.mean(1).argmax()) - centre) <= 1 and float(levels.max()) == pytest.approx(1)
    assert spectrogram_url(tone, 8000).startswith("data:image/png;base64,")
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(sound_url(0.5 * tone, 8000).split(",")[1])))
    assert rate == 8000 and np.abs(wave - 0.5 * tone.numpy()).max() < 1e-3


def test_the_clock_knows_the_network_from_the_rest():
    composer = tiny_composer()
    composer.denoiser.network.register_forward_pre_hook(lambda *_: None)
    forward = composer.denoiser.network.forward

    def slow(*arguments):
        time.sleep(0.01)
        return forward(*arguments)

    composer.denoiser.network.forward = slow
    found = time_sampling(composer, n=2, runs=3, steps=3, guidance=0.0)
    assert (found.n, found.runs, found.steps, found.calls, found.evaluations) == (2, 3, 3, 3, 3)
    assert found.network >= 0.03 and found.other > 0 and found.decoding > 0
    with network_seconds(composer.denoiser) as clock:
        time.sleep(0.02)
    assert clock.seconds == 0
