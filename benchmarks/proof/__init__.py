"""LC beside its own pieces and the methods of others, each to a file."""
