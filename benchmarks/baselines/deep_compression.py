"""Deep Compression (Han, Mao and Dally, arXiv 1510.00149): prune and retrain, share values by k-means and retrain them, code the rest losslessly."""

from methods import Cell, train_free

import leco


def deep_compression(cell: Cell) -> leco.LC:
    """Half of the epochs for each retraining; the file codes positions and values, where the paper has Huffman's code."""
    (task,) = cell.tasks.values()
    if not isinstance(task.compression, leco.Compose):
        raise ValueError(f"Deep Compression: the task must be one Compose(TopK, Codebook), got {task.compression}")
    pruned = leco.LC(cell.model, {"all": leco.Task(task.params, task.view, task.compression.first)})
    pruned.mu = 1.0
    train_free(cell, pruned, cell.settings.epochs / 2, part=1)
    lc = leco.LC(cell.model, cell.tasks)
    lc.mu = 1.0  # of no effect in a set
    train_free(cell, lc, cell.settings.epochs / 2, part=2)
    return lc
