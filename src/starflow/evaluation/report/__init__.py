"""The page of an evaluation: an HTML file that contains its pictures."""
