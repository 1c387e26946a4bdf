"""A procedural world of captioned clips, 64×64 pixels and 17 frames at 8 fps, with a checker that reads them back."""
