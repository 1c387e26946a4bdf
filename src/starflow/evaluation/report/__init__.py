"""The HTML page that shows an evaluation."""
