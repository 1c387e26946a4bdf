"""Video and image files, frame arrays, sizes."""
