"""The exact likelihood of a clip, its map to noise and back, and heat maps of surprise."""
