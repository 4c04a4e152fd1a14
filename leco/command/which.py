"""Which parameters of a net a recipe compresses, with which word, and why it leaves the others."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from leco.command.recipe import OTHERS, Recipe
from leco.modules import linear_like
from leco.names import named_parameters
from leco.selection import match

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def words_of(model: nn.Module, recipe: Recipe) -> tuple[dict[str, str], dict[str, str]]:
    """Return the word of each parameter that has one, and why each other one has none."""
    usual, reasons = _usual(model, recipe.smallest)
    if isinstance(recipe.to, str):
        return dict.fromkeys(usual, recipe.to), reasons
    words, owner = dict[str, str](), dict[str, str]()
    shapes = {name: tuple(p.shape) for name, p in named_parameters(model).items()}
    for pattern, word in recipe.to.items():
        if pattern == OTHERS:
            continue
        try:
            found = [name for name in match(model, pattern) if len(shapes[name]) > 1]
        except ValueError as error:
            raise ValueError(f"to: {str(error).removeprefix('match: ')}") from None
        if not found:
            raise ValueError(f"to: {pattern!r} matches only norms and biases")
        for name in found:
            if name in owner:
                raise ValueError(
                    f"to: {name!r} matches {owner[name]!r} and {pattern!r}; make one of them "
                    "narrower"
                )
            owner[name], words[name] = pattern, word
    if OTHERS in recipe.to:
        words |= {name: recipe.to[OTHERS] for name in usual if name not in owner}
    else:
        reasons |= {name: "no pattern names it" for name in usual if name not in owner}
    return words, reasons


def kind_of(name: str) -> str:
    """Return a parameter's name with a star for each number between dots.

    >>> from leco.command.which import kind_of
    >>> kind_of("model.layers.12.mlp.up_proj.weight"), kind_of("0.weight")
    ('model.layers.*.mlp.up_proj.weight', '*.weight')
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _usual(model: nn.Module, smallest: int) -> tuple[list[str], dict[str, str]]:
    """Return the weights that a word for all compresses, and why each other parameter is left."""
    kinds = {name: kind for name, kind, _ in places_of(model)}
    head = _head(model)
    found, reasons = list[str](), dict[str, str]()
    for name, p in named_parameters(model).items():
        kind = kinds.get(name, "")
        if p.dim() < 2:
            reasons[name] = "a norm or bias"
        elif kind == "embedding":
            reasons[name] = "an embedding; a pattern of the recipe can name it"
        elif p is head:
            reasons[name] = "the output layer; a pattern of the recipe can name it"
        elif kind != "layer":
            reasons[name] = "no weight of a linear or convolutional layer"
        elif p.numel() < smallest:
            reasons[name] = f"only {p.numel()} weights"
        else:
            found.append(name)
    return found, reasons


def _head(model: nn.Module) -> Any:
    """Return the weight of a transformers model's output layer, or None."""
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    return getattr(layer, "weight", None)


def places_of(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Yield the name of each weight of a layer or embedding, "layer" or "embedding", and the
    dimension of its outputs."""
    first = {id(p): name for name, p in named_parameters(model).items()}
    seen = set[str]()
    for module in model.modules():
        for own, kind, outputs in _kinds(module):
            p = module._parameters.get(own)
            if p is None or (first[id(p)] in seen and kind == "layer"):
                continue  # a tied weight is an embedding where one of its modules is
            seen.add(first[id(p)])
            yield first[id(p)], kind, outputs


def _kinds(module: nn.Module) -> Iterator[tuple[str, str, int]]:
    outputs = linear_like(module)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield "weight", "embedding", 0
    elif isinstance(module, nn.MultiheadAttention):
        for own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            yield own, "layer", 0
    elif outputs is not None:
        yield "weight", "layer", outputs
    elif isinstance(module, TRANSPOSED):
        yield "weight", "layer", 1
    elif isinstance(module, CONVOLUTIONS):
        yield "weight", "layer", 0
