"""Methods of others, small and faithful, over the same data, reference nets, epochs and files as
LC's: see `methods.Cell`."""
