"""The file format: `save` writes, `load` reads, the other files are its parts."""
