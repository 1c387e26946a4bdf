"""Captioned clips for training: where they come from, and the cache of their latents."""
