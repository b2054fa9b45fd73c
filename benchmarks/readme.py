"""Fill the tables of README.md and docs/ from benchmarks/results: `python benchmarks/readme.py`."""

from __future__ import annotations

from pathlib import Path

from polyscore.files import write_text
from polyscore.recipes.tables import fill

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Rewrite every page whose tables changed."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        filled = fill(text, ROOT / "benchmarks" / "results")
        if filled != text:
            write_text(page, filled)
            print(f"filled {page.name}")


if __name__ == "__main__":
    main()
