"""Do samples of a composition follow its law? Writes benchmarks/results/product-exactness.json (see docs/product.md)."""

from __future__ import annotations

from polyscore.recipes.product.commands import evaluate_product_exactness

if __name__ == "__main__":
    evaluate_product_exactness()
