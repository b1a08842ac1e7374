"""Scores of answers by published rules."""
