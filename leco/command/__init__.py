"""The command `leco`."""
