"""What sampling costs, measured: `sampling.measure` makes the rows, `published` is the rule to compare with."""
