"""What a model answers, what of it the image brought, and how that is shown."""
