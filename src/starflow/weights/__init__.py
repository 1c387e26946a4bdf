"""Where models come from: the hub, folders, bundled models, and whether their weights are finite."""
