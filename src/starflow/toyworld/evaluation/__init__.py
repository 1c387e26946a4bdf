"""What only toyworld's clips allow to be measured, because a program can check what they show."""
