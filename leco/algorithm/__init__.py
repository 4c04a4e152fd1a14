"""The learning-compression algorithm: `lc` has the state, `run` the loop, the other files the
formulas that they use."""
