"""What a toyworld model is worth, measured and shown. `evaluate.evaluate` does all of it; each module is one part."""
