"""Views: bijections between a task's tensors and the one array that its compression works on. A
view decides *what is compressed jointly*.

The last dimension (the last two, for a matrix) is what a compression sees as one problem; leading
dimensions are a batch of separate ones. `Vector` gives one problem over all tensors, `Rows` one for
each output channel, `Groups` one for each run of `size` weights.
"""

from leco.views.basic import Blocks, Groups, Kernel, Reshape, Rows, Vector
from leco.views.channels import Channels
from leco.views.matrices import Matrix, Subvectors, Tiles
from leco.views.protocol import Shapes as Shapes
from leco.views.protocol import View as View
from leco.views.protocol import array_shape as array_shape
from leco.views.protocol import blocks as blocks

VIEWS: tuple[type, ...] = (
    Vector,
    Rows,
    Groups,
    Tiles,
    Channels,
    Subvectors,
    Matrix,
    Kernel,
    Reshape,
    Blocks,
)
"""The views that a file may name."""
