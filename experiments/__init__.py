"""Studies: the same training with different flags and seeds, and a report of the results."""
