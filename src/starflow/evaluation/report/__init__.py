"""The page of an evaluation: one HTML file that holds its pictures."""
