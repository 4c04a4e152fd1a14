"""The laws of a C step, over every compression."""
