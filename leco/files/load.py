"""Reading a file: the compressed net into a model, or its Thetas alone."""

import os
from collections.abc import Sequence

from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.files.arguments import check_kind, check_path
from leco.files.contents import contents, damage_named, decoded
from leco.files.fields import knows_its_shape
from leco.files.reader import opened
from leco.files.straight import filled_
from leco.files.target import Target
from leco.layers.packed import pack
from leco.theta import THETAS
from leco.views import VIEWS

CALL = "load(path, model)"


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    forms: Sequence[type] = (),
    views: Sequence[type] = (),
    packed: bool = False,
    strict: bool = True,
) -> nn.Module:
    """Put the compressed net of a file into `model`, at w = Delta(Theta), and return it. Needs the
    architecture, not the training script.

    The file is opened once: while another process replaces it, `load` reads the old file or the new
    one. The names of `torch.compile`, `DataParallel` and `DistributedDataParallel` (`_orig_mod.`,
    `module.`) do not count. A parameter or buffer on the meta device is replaced by a new one on
    the CPU, and a tied weight stays tied; an optimizer must be made after that.

    Args:
        path: of a file that `leco.save` wrote.
        model: a net of the same architecture, with any weights, on any device or on meta.
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own that the file uses.
        packed: return what `leco.pack` makes of the file, a net whose layers compute from Theta,
            without wrappers. Weights are not decoded; `model` keeps those of its own that would
            be, and gets all other tensors.
        strict: False loads what fits, and warns once of all that is missing, unexpected, or of
            another shape.

    Raises:
        ValueError: a folder, not a file of leco, a version or form that is not known, damaged
            contents, or another architecture; `model` is unchanged.
        TypeError: arguments in another order.
        OSError: no such file, or no right to read it.
    """
    check_path(CALL, path)
    check_kind(CALL, "model", model, nn.Module, "a torch.nn.Module")
    target = Target(model, strict)
    tasks: dict[str, Compressed] = {}
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), target)
        # all tensors in no task
        with damage_named("the rest"):
            kept = {name: t for name, t in found.rest.items() if name in target.names}
            rest = file.read_all(kept)
        # the tasks; new tensors take the place of others only at the end
        own = [n for n in found.tasks if target.names.keys() & found.tasks[n].shapes.keys()]
        deltas: dict[str, Tensor] = {}
        for name, task in decoded(file, found, own):
            with damage_named(f"task {name!r}"):
                if not knows_its_shape(task.theta):
                    deltas |= _deltas(task)
                elif not packed and target.is_new(task.shapes):
                    target.put(_deltas(task), found.tied)
                    continue
            tasks[name] = task
    # nothing can fail from here on
    target.put_extra(rest)
    target.put({**rest, **deltas}, found.tied)
    whole = _of_model(tasks, target) if packed else {}
    for name in tasks.keys() - whole.keys():
        task = tasks.pop(name)
        if not filled_(task, target.values(task.shapes)):
            target.put(task.deltas(), found.tied)
    target.finish({name for task in whole.values() for name in task.shapes})
    target.warn(path, stacklevel=2)
    return pack(target.model, whole) if packed else model


def _deltas(task: Compressed) -> dict[str, Tensor]:
    """Delta(Theta) by parameter, of the shapes that the file says: forms of a user's own may give
    others."""
    deltas = task.deltas()
    for name, shape in task.shapes.items():
        delta = deltas[name]
        if delta.shape != shape or not delta.is_floating_point():
            raise ValueError(
                f"theta gives {name!r} as {delta.dtype} of shape {tuple(delta.shape)}, "
                f"not as floats of {tuple(shape)}"
            )
    return deltas


def _of_model(tasks: dict[str, Compressed], target: Target) -> dict[str, Compressed]:
    """The tasks all of whose parameters fit, with the model's own names for them."""
    named = {}
    for name, task in tasks.items():
        if task.shapes.keys() <= target.names.keys():
            own = {target.own[target.names[n]]: shape for n, shape in task.shapes.items()}
            named[name] = task._replace(shapes=own)
    return named


def thetas(
    path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()
) -> dict[str, Compressed]:
    """The Thetas of a file by task, with the parameters that they are of and the views, without a
    model.

    Args:
        path: of a file that `leco.save` wrote.
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own that the file uses.

    Raises:
        ValueError: as `load`; more than 2^22 weights and 256 for each byte of the file.
        TypeError: not a path.
        OSError: no such file, or no right to read it.
    """
    check_path("thetas(path)", path)
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), None)
        return dict(decoded(file, found, found.tasks))
