"""Diffusers pipelines and schedulers as experts, codecs, paths and solvers. diffusers itself is imported in functions."""
