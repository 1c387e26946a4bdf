"""Finding models: bundled models, folders and the hub; and checking that weights are finite."""
