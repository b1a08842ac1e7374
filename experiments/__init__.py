"""Studies: the same training with other flags and seeds, and what comes of them."""
