"""Time and memory of the C steps, and what the penalty adds to an L step."""
