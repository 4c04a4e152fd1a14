"""The inputs of weights, read from the functions of torch that take them: linear layers,
convolutions, embeddings, products of matrices, attention."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from leco.layerwise.layouts import Flipped, Layout, Plain, Transposed


class Use(NamedTuple):
    """A weight, or a part of it, in a function.

    Args:
        weight: the tensor that the function takes.
        layout: of that tensor as matrices (G, out, in).
        inputs: what it is multiplied with; the same tensor for layers that share their inputs.
        samples: the inputs as (G, n, in), or the indices (n,) of an embedding.
    """

    weight: Tensor
    layout: Layout
    inputs: Tensor
    samples: Callable[[], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Any = None) -> Iterator[Use]:
    yield of_matrix(x, weight)


def of_matrix(x: Tensor, weight: Tensor) -> Use:
    """x W' with W (out, in); W may be a parameter (in, out) turned round."""
    layout = Plain(1, x.shape[-1])
    if weight.dim() == 2 and weight.stride(0) == 1 and weight.stride(1) > 1:
        weight, layout = weight.mT, Transposed(1, x.shape[-1])
    return Use(weight, layout, x, lambda: x.reshape(1, -1, x.shape[-1]))


def product(x: Tensor, other: Tensor) -> Iterator[Use]:
    """x W, and batches of such products."""
    if other.dim() == 2 and x.dim() >= 2:
        yield of_matrix(x, other.mT)
    elif other.dim() == 3 and x.dim() == 3:
        plain = other.stride(2) != 1 and other.stride(1) == 1
        weight = other.mT if plain else other
        layout = (Plain if plain else Transposed)(len(other), x.shape[-1])
        yield Use(weight, layout, x, lambda: x)


def product_and_sum(bias: Tensor, x: Tensor, other: Tensor, **_: Any) -> Iterator[Use]:
    yield from product(x, other)


def embedding(indices: Tensor, weight: Tensor, *_: Any, **__: Any) -> Iterator[Use]:
    yield Use(weight, Transposed(1, len(weight)), indices, lambda: indices.reshape(-1))


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Iterator[Use]:
    kernel = weight.shape[2:]
    stride, dilation = _each(stride, kernel), _each(dilation, kernel)
    if isinstance(padding, str):
        same = 1 if padding == "same" else 0
        more = [same * d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        ends = [(p // 2, p - p // 2) for p in more]
    else:
        ends = [(p, p) for p in _each(padding, kernel)]
    inputs = weight.shape[1] * kernel.numel()
    x = x if x.dim() == weight.dim() else x.unsqueeze(0)
    yield Use(
        weight,
        Plain(groups, inputs),
        x,
        lambda: patches(_padded(x, ends), kernel, stride, dilation, groups),
    )


def transposed_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Iterator[Use]:
    kernel = weight.shape[2:]
    stride, dilation, padding, more = (
        _each(value, kernel) for value in (stride, dilation, padding, output_padding)
    )
    x = x if x.dim() == weight.dim() else x.unsqueeze(0)

    def samples() -> Tensor:
        sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
        spread = x.new_zeros(*x.shape[:2], *sizes)
        spread[(..., *(slice(None, None, s) for s in stride))] = x
        ends = [
            (d * (k - 1) - p, d * (k - 1) - p + o)
            for d, k, p, o in zip(dilation, kernel, padding, more, strict=True)
        ]
        return patches(_padded(spread, ends), kernel, [1] * len(kernel), dilation, groups)

    yield Use(weight, Flipped(groups, tuple(kernel)), x, samples)


def patches(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor:
    """The inputs (G, n, in / G kernel) of each output of a convolution of x (N, in, ...)."""
    for dim, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), 2):
        x = x.unfold(dim, d * (k - 1) + 1, s)[..., ::d]
    count = len(kernel)
    x = x.unflatten(1, (groups, -1))  # N, G, in / G, places, kernel
    places, taps = range(3, 3 + count), range(3 + count, 3 + 2 * count)
    x = x.permute(1, 0, *places, 2, *taps)
    return x.reshape(groups, x.shape[1] * x.shape[2 : 2 + count].numel(), -1)


def _each(value: Any, kernel: Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * len(kernel) if len(values) == 1 else values


def _padded(x: Tensor, ends: Sequence[tuple[int, int]]) -> Tensor:
    flat = [end for pair in reversed(ends) for end in pair]
    return functional.pad(x, flat) if any(flat) else x


def attention(call: Callable[..., Any], args: Any, kwargs: Any) -> Iterator[Use]:
    """The projections of `multi_head_attention_forward`. What the last one takes is the output
    with a projection by 1."""
    names = call.__code__.co_varnames[: call.__code__.co_argcount]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    query, key, value = given["query"], given["key"], given["value"]
    if given.get("use_separate_proj_weight"):
        for x, name in ((query, "q"), (key, "k"), (value, "v")):
            yield of_matrix(x, given[f"{name}_proj_weight"])
    elif query is key and key is value:
        yield of_matrix(query, given["in_proj_weight"])
    else:
        for x, weight in zip((query, key, value), given["in_proj_weight"].chunk(3), strict=True):
            yield of_matrix(x, weight)
    out = given["out_proj_weight"]
    one = torch.eye(out.shape[1], dtype=out.dtype, device=out.device)
    mixed, _ = call(**{**given, "out_proj_weight": one, "out_proj_bias": None})
    yield of_matrix(mixed, out)


USES: dict[Any, Callable[..., Iterator[Use]]] = {
    functional.linear: linear,
    functional.embedding: embedding,
    torch.matmul: product,
    Tensor.matmul: product,
    Tensor.__matmul__: product,
    torch.mm: product,
    Tensor.mm: product,
    torch.bmm: product,
    Tensor.bmm: product,
    torch.addmm: product_and_sum,
    torch.baddbmm: product_and_sum,
    torch.conv1d: convolution,
    torch.conv2d: convolution,
    torch.conv3d: convolution,
    torch.conv_transpose1d: transposed_convolution,
    torch.conv_transpose2d: transposed_convolution,
    torch.conv_transpose3d: transposed_convolution,
}
"""The functions that are read."""


def uses(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Use]:
    """The uses of weights in a call of a function of torch."""
    if function is functional.multi_head_attention_forward:
        yield from attention(function, args, kwargs)
    elif function in USES:
        yield from USES[function](*args, **kwargs)
