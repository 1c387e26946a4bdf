"""The encoders of video and text: the VAE and the text encoder."""
