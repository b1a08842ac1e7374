"""Shows what was measured: tables, pictures, an HTML page, the model card, sentences."""
