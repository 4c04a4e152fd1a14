"""Lossless coding of tensors to bytes: whatever is coded comes back to the bit, and of several
codings the shortest is kept.

A coding is a dictionary of a name and whole numbers. It stands in the file's description.

    integers, bools   "digits", "entropy"   flat streams, at a fixed width or by frequencies
                                            (`leco.coding.streams`)
    masks             "gaps"                the numbers of False entries between the True ones
                                            (`leco.coding.masks`)
    sparse matrices   "rows"                by rows and columns that have few nonzero entries or
                                            none (`leco.coding.matrices`)
    floats            "planes"              byte by byte, each plane as a stream
                                            (`leco.coding.floats`)
    any               "raw"                 the tensor's own bytes

Tables and models are integers, so that decoding is the same on every machine. `decode` checks every
value of a coding before it uses it: it raises ValueError where payload, coding, shape and type
disagree, before it takes more memory than about twice the tensor's own.
"""

import math
import reprlib
from typing import Any

import torch
from torch import Tensor

from leco.coding.floats import MANTISSA, encode_floats, float_steps
from leco.coding.masks import decode_gaps, encode_gaps
from leco.coding.matrices import encode_rows, row_steps
from leco.coding.steps import Steps, finished
from leco.coding.streams import Encoded, encode_stream, stream_steps

# what is coded
DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *MANTISSA)


def bits(theta: Any) -> int:
    """The bits that the tensors of `theta`, and of the Thetas in it, take in a file (names, ints
    and shapes stand in the file's description).

    >>> import torch, leco
    >>> theta = leco.Binary().compress(torch.tensor([0.5, -1.5, 1.0, -1.0, 2.0]), mu=1.0)
    >>> leco.bits(theta)  # 5 signs in one byte, 2 values of the set {-1, +1}, one scale
    104
    """
    if isinstance(theta, Tensor):
        return 8 * size(theta)
    return sum(bits(field) for field in theta) if isinstance(theta, tuple) else 0


def size(x: Tensor) -> int:
    """Bytes that `encode(x)` gives."""
    return encode(x).payload.numel()


def encode(x: Tensor) -> Encoded:
    """Code a tensor of bools, integers or floats; `decode(*encode(x), x.shape, x.dtype)` gives it
    back to the bit.

    >>> import torch
    >>> from leco.coding.tensors import decode, encode
    >>> payload, coding = encode(torch.tensor([2, 0, 1, 1, 2, 0]))
    >>> len(payload), coding
    (2, {'name': 'digits', 'base': 3})
    >>> decode(payload, coding, torch.Size([6]), torch.int64)
    tensor([2, 0, 1, 1, 2, 0])
    """
    if x.dtype not in DTYPES:
        raise ValueError(
            f"{x.dtype} can't be coded; a file holds {', '.join(str(dtype) for dtype in DTYPES)}"
        )
    x = x.detach().cpu()
    if x.is_floating_point():
        return encode_floats(x)
    flat = x.reshape(-1)
    ways = (encode_stream(flat), encode_gaps(flat), encode_rows(x))
    found = [way for way in ways if way is not None]
    return min(found, key=lambda coded: coded.payload.numel())


def decode(payload: Tensor, coding: Any, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The tensor that `encode` was given. Raises ValueError where payload and description disagree;
    a shape too large is the caller's to refuse."""
    return finished(decoding(payload, coding, shape, dtype))


def decoding(payload: Tensor, coding: Any, shape: torch.Size, dtype: torch.dtype) -> Steps[Tensor]:
    """`decode`, beside the decoding of other tensors."""
    if dtype not in DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"no tensor of {dtype} and shape {tuple(shape)} can have been coded")
    try:
        return (yield from _by_name(payload, coding, shape, dtype))
    # the first is the range coder's
    except (AssertionError, MemoryError, OverflowError, RuntimeError) as error:
        described = f"a tensor of shape {tuple(shape)} coded as {reprlib.repr(coding)}"
        raise ValueError(f"{payload.numel()} bytes do not hold {described}: {error}") from error


def _by_name(payload: Tensor, coding: Any, shape: torch.Size, dtype: torch.dtype) -> Steps[Tensor]:
    """The tensor, by the name of its coding."""
    name, count = coding.get("name") if type(coding) is dict else None, math.prod(shape)
    if dtype.is_floating_point:
        if name in ("raw", "planes"):
            return (yield from float_steps(payload, coding, count, dtype)).view(shape)
    elif name == "gaps" and dtype == torch.bool:
        return decode_gaps(payload, coding, count).view(shape)
    elif name == "rows" and len(shape) == 2:
        return (yield from row_steps(payload, coding, shape, dtype))
    elif name not in ("gaps", "rows"):
        return (yield from stream_steps(payload, coding, count, dtype)).view(shape)
    raise ValueError(f"unknown coding {reprlib.repr(coding)} of {dtype} and shape {tuple(shape)}")
