"""Scores of answers by every published rule."""
