"""Video and image files, arrays of frames, and sizes."""
