"""The drawn data set, whose true pairs are known."""
