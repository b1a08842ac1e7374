"""What a model answers, how much of it is due to the image, and how that is shown."""
