"""Training that only toyworld needs: grounding, and text lessons."""
