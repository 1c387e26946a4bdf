"""The procedural world: scenes, their rendering, captions, edits and violations."""
