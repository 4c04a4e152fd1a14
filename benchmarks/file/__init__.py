"""The file: its length, the time to load it, lossless coding, damaged files."""
