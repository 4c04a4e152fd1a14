"""The compressed forms Theta, each with its decompression Delta(Theta): every Delta of the library
is in this folder.

A Theta is a NamedTuple of tensors and ints. It does not say how it was found: several compressions
share one form, and a file of Thetas loads without the compressions, options or costs that made
them. What files, layers and exports need of a form stands on the form (`leco.theta.protocol`), so
that a new form is one class and its line in `THETAS`.
"""

from leco.theta.entries import take
from leco.theta.factors import (
    ConvFactors,
    CPFactors,
    Dense,
    Factors,
    TrainFactors,
    TuckerFactors,
    mode_product,
)
from leco.theta.grids import Affine, Shifted
from leco.theta.hashed import HashedValues, hashed_positions
from leco.theta.index_coded import IndexCoded, index_coded
from leco.theta.protocol import Array, Checked, Intermediate, Shaped, Theta, shape_of, values
from leco.theta.quantized import (
    Codes,
    Fixed,
    Scaled,
    VectorCodes,
    ZeroCodes,
    lookup,
)
from leco.theta.sparse import GroupSparse, NMSparse, Sparse, patterns
from leco.theta.sums import Sum, Term

THETAS: tuple[type, ...] = (
    Codes,
    Fixed,
    Scaled,
    ZeroCodes,
    VectorCodes,
    HashedValues,
    Affine,
    Shifted,
    Sparse,
    GroupSparse,
    NMSparse,
    Dense,
    Factors,
    ConvFactors,
    TuckerFactors,
    CPFactors,
    TrainFactors,
    Term,
    Sum,
)
"""The forms that a file may name."""


__all__ = [
    "THETAS",
    "Affine",
    "Array",
    "CPFactors",
    "Checked",
    "Codes",
    "ConvFactors",
    "Dense",
    "Factors",
    "Fixed",
    "GroupSparse",
    "HashedValues",
    "IndexCoded",
    "Intermediate",
    "NMSparse",
    "Scaled",
    "Shaped",
    "Shifted",
    "Sparse",
    "Sum",
    "Term",
    "Theta",
    "TrainFactors",
    "TuckerFactors",
    "VectorCodes",
    "ZeroCodes",
    "hashed_positions",
    "index_coded",
    "lookup",
    "mode_product",
    "patterns",
    "shape_of",
    "take",
    "values",
]
