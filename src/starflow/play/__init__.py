"""A page in the browser with which a model is played: `starflow play`."""
