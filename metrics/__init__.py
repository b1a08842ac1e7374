"""Metrics that `evaluate` loads by path."""
