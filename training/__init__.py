"""Flags, the model they make, and the Trainer."""
