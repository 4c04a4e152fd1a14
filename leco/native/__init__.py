"""Loops in C, compiled by the system's compiler at their first use: the decoder of entropy-coded
streams and products with packed weights. Without a compiler, slower ways through numpy and torch
take their place."""
