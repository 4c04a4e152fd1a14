"""One-shot methods that their authors' packages run."""

from typing import Any

import torch
from torch import Tensor


def hqq(w0: Tensor, bits: int, group: int = 64) -> Tensor:
    """HQQ: grids whose zero points, floats here, fit the weights in an l_p norm with p < 1.

    Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models", 2023.
    `pip install hqq` brings it. It looks at the weights alone.

    Args:
        w0: (out, in).
        bits: 8, 4, 3, 2 or 1.
        group: neighbours in a row that share a scale and a zero point.
    """
    try:
        from hqq.core.quantize import Quantizer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; install it: pip install hqq") from error
    options: dict[str, Any] = {"device": str(w0.device), "compute_dtype": torch.float32}
    codes, how = Quantizer.quantize(
        w0, nbits=bits, group_size=group, axis=1, optimize=True, bitpack=False, **options
    )
    return Quantizer.dequantize(codes, how).to(w0.dtype).view_as(w0)
