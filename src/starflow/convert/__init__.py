"""Released checkpoints ⇄ native modules."""
