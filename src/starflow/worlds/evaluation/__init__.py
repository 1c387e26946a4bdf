"""How well a model of a game follows its player: measurements against the game itself."""
