"""Deep Compression (Han, Mao and Dally, arXiv 1510.00149): prune and retrain, share values by
k-means and retrain them, code the rest losslessly."""

import dataclasses

import leco
from benchmarks.baselines import magnitude
from benchmarks.proof.cell import Cell
from benchmarks.proof.methods import train_free


def deep_compression(cell: Cell) -> leco.LC:
    """Half of the epochs for each part: pruning while the net trains (in place of the paper's
    rounds), then training of each layer's shared values.

    A layer with no more kept weights than shared values keeps its own. The file codes positions and
    values, where the paper has Huffman's code.
    """
    (task,) = cell.tasks.values()
    compression = task.compression
    if not (isinstance(compression, leco.Compose) and isinstance(compression.then, leco.Codebook)):
        raise ValueError(
            f"Deep Compression: the task must be one Compose(TopK, Codebook), got {compression}"
        )
    pruned = dataclasses.replace(task, compression=compression.first)
    magnitude.gradual(
        dataclasses.replace(cell, tasks={"all": pruned}), epochs=cell.settings.epochs / 2
    )
    tasks = dict[str, leco.Task]()
    for name in task.params:
        few = leco.TopK(int(cell.model.get_parameter(name).count_nonzero()))
        shared = few.kappa > compression.then.k
        tasks[name] = leco.Task(
            name, leco.Vector(), leco.Compose(few, compression.then) if shared else few
        )
    lc = leco.LC(cell.model, tasks)
    lc.mu = 1.0  # of no effect in a set
    train_free(cell, lc, cell.settings.epochs / 2, part=2)
    return lc
