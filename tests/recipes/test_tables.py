from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyscore.recipes.tables import Measured, fill, markdown, read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_met_is_computed_from_the_values():
    assert Measured("a", [0.9, 1.0, 1.1], (">=", 1.0)).met
    assert not Measured("a", [0.9, 1.0, 1.0], (">=", 1.0)).met
    assert Measured("a", [0.2], ("<=", 0.2)).met and Measured("a", [0.2]).met is None
    assert Measured("a", [1.0, 2.0, 3.0]).sd == pytest.approx(1.0)


def test_small_numbers_stay_what_they_are():
    row = Measured("a", [1.23456789e-9, -0.0123456789, 0.123456789, 1234.123456789, 0.0], ("<=", 0.0)).row()
    assert row["values"] == [1.23457e-9, -0.0123457, 0.123457, 1234.123457, 0.0]
    assert Measured("a", [3.1e-7], ("<=", 1e-6)).row()["mean"] == 3.1e-7


def test_tables_come_back_and_become_markdown(tmp_path):
    rows = [Measured("share", [0.9, 1.0], (">=", 0.9), "a paper .8"), Measured("seconds", [3.0])]
    write_table(tmp_path / "digits-x.json", rows, {"command": "polyscore evaluate x", "n": 10, "seeds": [0, 1]})
    text = markdown(read_table(tmp_path / "digits-x.json"))
    assert "| share | 0.95 ± 0.071 | >= 0.9 | a paper .8 | yes |" in text and "seconds" not in text
    assert "`polyscore evaluate x` (n 10, seeds [0, 1])" in text
    page = "before\n<!-- results: digits-x -->\nold\n<!-- end -->\nafter"
    assert fill(page, tmp_path) == f"before\n<!-- results: digits-x -->\n{text}<!-- end -->\nafter"


def test_a_block_may_show_the_first_rows(tmp_path):
    rows = [Measured("first", [1.0], (">=", 0.9)), Measured("second", [1.0], (">=", 0.9))]
    write_table(tmp_path / "digits-x.json", rows, {"command": "x"})
    shown = fill("<!-- results: digits-x first 1 -->\n<!-- end -->", tmp_path)
    assert "| first |" in shown and "| second |" not in shown and fill(shown, tmp_path) == shown


def test_a_block_may_show_codecs(tmp_path):
    for name, quality in (("cdcd-x", {"psnr": 24.81}), ("cdcd-y", {"mel square error / variance": 0.2149})):
        rows = [Measured("pictures through the codec, recognised", [0.9911]), Measured("other", [1.0])]
        write_table(tmp_path / f"{name}.json", rows, {"command": "x", "codec": {"codes used": 1.0, "perplexity": 43.21, **quality}})
    shown = fill("<!-- codecs: cdcd-x, cdcd-y -->\nold<!-- end -->", tmp_path)
    assert "| `cdcd-x` | PSNR 24.8 dB | 100% | 43.2 | recognised 0.991 |" in shown
    assert "| `cdcd-y` | mel square error / variance 0.215 |" in shown
    assert "old" not in shown and fill(shown, tmp_path) == shown


def test_a_block_may_show_cases_by_measures(tmp_path):
    rows = [
        Measured("IND base: share", [0.5, 0.7]),
        Measured("IND base: time", [2.0]),
        Measured("OOD: time", [1.0]),
        Measured("other", [1.0]),
    ]
    write_table(tmp_path / "digits-x.json", rows, {"command": "x"})
    shown = fill("<!-- cases: digits-x share, time -->\nold<!-- end -->", tmp_path)
    assert "| | share | time |" in shown and "| IND base | 0.6 ± 0.14 | 2 |" in shown and "| OOD |  | 1 |" in shown
    assert "other" not in shown and fill(shown, tmp_path) == shown


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_every_result_is_whole(path):
    table = json.loads(path.read_text())
    assert any(word in path.stem for word in ("digits", "mmdisco", "product", "sbm", "cdcd"))
    assert {"command", "seeds", "seconds", "versions"} <= set(table["protocol"]), path.stem
    for row in table["rows"]:
        assert set(row) == {"measure", "values", "mean", "sd", "reach", "reference", "met"}
        reach = None
        if row["reach"]:
            sign, number = row["reach"].split()
            reach = (sign, float(number))
        again = Measured(row["measure"], row["values"], reach, row["reference"])
        assert again.mean == pytest.approx(row["mean"], abs=1e-4) and again.sd == pytest.approx(row["sd"], abs=1e-4)
        assert again.met == row["met"], f"{path.stem}: {row['measure']}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_show_the_stored_results(page):
    text = page.read_text(encoding="utf-8")
    assert fill(text, ROOT / "benchmarks" / "results") == text, "run: python benchmarks/readme.py"
    for name in re.findall(r"<!-- results: ([\w-]+)", text):
        assert (ROOT / "benchmarks" / "results" / f"{name}.json").is_file()
