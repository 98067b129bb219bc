"""Mythopoeia: make, measure, gate and serve a tiered family of language models."""

__version__ = "0.1.0"
