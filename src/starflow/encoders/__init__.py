"""Video and text as the flow sees them: the VAE and the text encoder."""
