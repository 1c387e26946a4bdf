"""Games as sources of clips with actions, and the truth about what a player would have seen."""
