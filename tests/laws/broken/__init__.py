"""Compressions that are wrong in one way each, with the law that must notice it. Most mistakes are
ones that people made."""

from laws.broken import combined, factors, metric, sparsity, values

FAULTS = (*values.FAULTS, *sparsity.FAULTS, *factors.FAULTS, *combined.FAULTS, *metric.FAULTS)
