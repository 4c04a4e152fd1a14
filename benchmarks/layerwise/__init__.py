"""Compression without training: a language model, one-shot methods of others, and LC."""
