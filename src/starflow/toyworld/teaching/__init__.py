"""Training for toyworld: grounding, the text encoder, and the weights of pixels."""
