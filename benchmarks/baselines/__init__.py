"""Methods of others over the same data, reference nets, epochs and files: see proof/cell.py."""
