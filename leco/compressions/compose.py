"""A compression of what an earlier one leaves: quantized values of the kept weights, quantized
low-rank factors."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from leco.compressions.checks import check_count
from leco.compressions.convrank import ConvRankSelection
from leco.compressions.lowrank import LowRank, RankSelection
from leco.compressions.metric import Mu, distortion
from leco.compressions.parts import Part, join, own_forms, own_views
from leco.compressions.protocol import Compression, check_metric, common_scaling
from leco.compressions.pruning import L0Penalty, L1Penalty, TopK
from leco.compressions.sorted_values import cells_of, midpoints
from leco.theta import (
    Affine,
    Codes,
    ConvFactors,
    Dense,
    Factors,
    Fixed,
    Scaled,
    Sparse,
    Theta,
    ZeroCodes,
    lookup,
    values,
)
from leco.views import Matrix, Rows, Vector, View

FIRST = (TopK, L0Penalty, L1Penalty, LowRank, RankSelection, ConvRankSelection)
ENOUGH = 1e-6  # relative decrease of the objective, by a sweep, that is not worth another one


@dataclass(frozen=True)
class Compose(Compression[Any]):
    """min mu/2 ||x - Delta(Theta)||^2 + prices, Theta of `first` with its float fields (kept
    values, factors u and v) in the set of `then`.

    A descent step. Delta(Theta) = A f is linear in each field f while the others are fixed: A has
    norm 1 for kept values, ||v||_2 for u, ||u||_2 for v. From the last f_0, with L = ||A||^2 and g
    = A'(A f_0 - x),

        ||x - A f||^2 <= L ||f - (f_0 - g/L)||^2 + a constant,  with equality at f_0,

    since the right side less the left is (f - f_0)'(L - A'A)(f - f_0). In a metric L is a number
    for each entry of f (`_curvature`). So the C step of `then` at
    f_0 - g/L and mu L, warm-started from f_0, does not raise the objective. Nor does another
    support: with the values v of one codebook fixed, to keep x_i lowers the error by max_v (x_i^2 -
    (x_i - v)^2), so that `TopK` and `L0Penalty` choose by the root of it, if above 0, as they do by
    |x_i|; where the values are given, a codebook without scale, this is exact. Sweeps of such steps
    go from the last Theta and from `first`'s C step with its fields compressed; the best is taken,
    the last Theta included, which covers prices of `first` that depend on the fields.

    Args:
        first: `TopK`, `L0Penalty`, `L1Penalty`, `LowRank`, `RankSelection` or `ConvRankSelection`.
        then: compresses each field; the kept values of all rows are one field. A field that it
            can't take (fewer values than a codebook holds), where `first` finds the sizes itself,
            stays as it is.
        view: through which `then` sees a field: `Rows()` for a scale of each row of u and of v.
        sweeps: at most so many from each start.

    >>> import torch, leco
    >>> compose = leco.Compose(leco.TopK(3), leco.Codebook(2))
    >>> theta = compose.compress(torch.tensor([0.1, 4.0, -3.0, 5.0]), mu=1.0)
    >>> theta.decompress()
    tensor([ 0.0000,  4.5000, -3.0000,  4.5000])
    >>> theta.values.codebook
    tensor([-3.0000,  4.5000])
    """

    takes_metric: ClassVar[bool] = True

    first: Compression[Any]
    then: Compression[Any]
    view: View = field(default_factory=Vector)
    sweeps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.first, FIRST):
            names = ", ".join(kind.__name__ for kind in FIRST)
            raise TypeError(
                f"Compose: first = {self.first!r} must be one of {names}: Theta then "
                "holds values that can be compressed further"
            )
        check_count("Compose: sweeps", self.sweeps, 1)
        _ = self._part

    def scaling(self) -> int | None:
        return common_scaling((self.first, self.then))

    @property
    def _part(self) -> Part:
        return Part(self.view, self.then)

    @property
    def forms(self) -> tuple[type, ...]:
        return (*getattr(self.first, "forms", ()), *own_forms([self._part]))

    @property
    def views(self) -> tuple[type, ...]:
        return own_views([self._part])

    def check(self, shape: torch.Size) -> None:
        super().check(shape)
        self.first.check(shape)
        for name, own in _fields(self.first, shape).items():
            try:
                if own.numel():
                    self._part.check([own])
            except ValueError as error:
                raise ValueError(
                    f"Compose: {self.then} can't take the {name} of {self.first}, of "
                    f"shape {tuple(own)}: {error}"
                ) from error

    def check_metric(self, shape: torch.Size) -> None:
        check_metric(self.first, shape)
        fields = _fields(self.first, shape) or {"values": torch.Size([shape.numel()])}
        for own in fields.values():
            if own.numel() and self._takes(own):
                self._part.check_metric([own])

    def price(self, theta: Any) -> float:
        inner = [self._inner(getattr(theta, name)) for name in theta.free()]
        return self.first.price(_plain(theta)) + sum(
            self.then.price(field) for field in inner if field is not None
        )

    def c_step(self, x: Tensor, mu: Mu, theta: Any = None) -> Any:
        warm = (
            isinstance(theta, (Sparse, Dense, Factors, ConvFactors))
            and theta.decompress().shape == x.shape
        )
        starts: list[Any] = [theta] if warm else []
        cold = self.first.compress(x, mu, _plain(theta) if warm else None)
        starts.append(
            cold._replace(
                **{
                    name: self._field(getattr(cold, name), _curvature(cold, name, mu))
                    for name in cold.free()
                }
            )
        )
        return min((self._descend(x, mu, start) for start in starts), key=lambda found: found[0])[1]

    def _descend(self, x: Tensor, mu: Mu, theta: Any) -> tuple[float, Any]:
        """The least objective of the sweeps from `theta`, and its Theta."""
        best = distortion(x, theta.decompress(), mu) + self.price(theta), theta
        for _ in range(self.sweeps):
            sparse = self._support(x, mu, theta)
            theta = theta if sparse is None else sparse
            for name in theta.free() if sparse is None else ():
                field, unit = getattr(theta, name), mu if isinstance(mu, Tensor) else 1.0
                curvature = _curvature(theta, name, unit)
                if _positive(curvature) and values(field).numel():
                    step = values(field) - _gradient(x, theta, name, unit) / curvature
                    weight = curvature if isinstance(mu, Tensor) else mu * curvature
                    theta = theta._replace(**{name: self._field(step, weight, self._inner(field))})
            objective = distortion(x, theta.decompress(), mu) + self.price(theta)
            enough = not objective < best[0] - ENOUGH * abs(best[0])
            best = min(best, (objective, theta), key=lambda found: found[0])
            if enough:
                break
        return best

    def _support(self, x: Tensor, mu: Mu, theta: Any) -> Any:
        """The best kept weights for the values that `then` has now, and its C step for them, where
        the values are one codebook for all."""
        first, inner = self.first, getattr(theta, "values", None)
        plain = isinstance(first, L0Penalty) or (isinstance(first, TopK) and not first.gamma)
        if (
            not (plain and isinstance(inner, (Codes, Fixed, Scaled, ZeroCodes, Affine)))
            or inner.indices.dim() != 1
        ):
            return None
        count = (
            len(inner.values)
            if isinstance(inner, (Fixed, Scaled))
            else int(inner.indices.max()) + 1
        )
        every = torch.arange(count, device=x.device)
        levels = inner._replace(indices=every).decompress().sort().values
        gain = lookup(levels, cells_of(x, midpoints(levels).expand(*x.shape[:-1], -1).contiguous()))
        gain = x.square().sub_(gain.sub_(x).square_()).clamp_(min=0).sqrt_()
        mask = first.compress(gain, mu).mask.logical_and_(gain > 0)
        return Sparse(mask, self._field(x[mask], mu[mask] if isinstance(mu, Tensor) else mu, inner))

    def _field(self, field: Tensor, mu: Mu, theta: Theta | None = None) -> Any:
        """The field compressed, or itself where it is empty or `then` can't take it."""
        if not (field.numel() and _positive(mu) and self._takes(field.shape)):
            return field
        inner = self.then.compress(self._part.array([field]), self._part.mu(mu, 1), theta)
        return inner if self._fits(field.shape) else join([self._part], [inner], field)

    def _inner(self, field: Any) -> Theta | None:
        """The Theta of `then` in a field."""
        if isinstance(field, Tensor):
            return None
        return field if self._fits(values(field).shape) else field.terms[0].theta

    def _takes(self, shape: torch.Size) -> bool:
        try:
            self._part.check([shape])
        except ValueError:
            return False
        return True

    def _fits(self, shape: torch.Size) -> bool:
        """Whether the view leaves a field of the shape as it is, so that Theta needs not remember
        the view."""
        return self.view in (Vector(), Rows(), Matrix()) and self.view.shape([shape]) == shape


def _fields(first: Compression[Any], shape: torch.Size) -> dict[str, torch.Size]:
    """Shapes of the fields, where they are known without x."""
    if isinstance(first, TopK):
        return {"values": torch.Size([shape[:-1].numel() * first.count(shape[-1])])}
    if isinstance(first, LowRank) and first.rank < min(shape[-2:]):
        return {
            "u": torch.Size([*shape[:-1], first.rank]),
            "v": torch.Size([*shape[:-2], first.rank, shape[-1]]),
        }
    return {"values": shape} if isinstance(first, LowRank) else {}


def _plain(theta: Any) -> Any:
    """Theta with its fields as numbers."""
    return theta._replace(**{name: values(getattr(theta, name)) for name in theta.free()})


def _curvature(theta: Any, name: str, mu: Mu) -> Mu:
    """The weights m of a field f for which ||x - A f||^2 in the metric of mu is at most sum_i m_i
    (f_i - f0_i + g_i/m_i)^2 and a constant, with g the gradient by f at f0.

    mu ||A||^2, with the largest ||A||^2 of a batch. In a metric: mu of the kept entries; for
    factors u (m, r) the largest mu of each row, for v (r, n) of each column, as row i of u
    multiplies in row i of x only; the largest mu of all where the factors' rows are not those of x.
    """
    if isinstance(theta, Sparse):
        return mu[theta.mask] if isinstance(mu, Tensor) else mu
    if isinstance(theta, Dense):
        return mu
    other = values(theta.v if name == "u" else theta.u)
    size = float(torch.linalg.matrix_norm(other, 2).max()) ** 2 if other.numel() else 0.0
    if not isinstance(mu, Tensor):
        return mu * size
    own = values(getattr(theta, name))
    if not isinstance(theta, Factors):
        return float(mu.max()) * size
    return (mu.amax(-1 if name == "u" else -2, keepdim=True) * size).expand_as(own)


def _positive(mu: Mu) -> bool:
    return bool((mu > 0).all()) if isinstance(mu, Tensor) else mu > 0


def _gradient(x: Tensor, theta: Any, name: str, mu: Mu) -> Tensor:
    """A'(mu (Delta - x)) for the field `name`."""
    with torch.enable_grad():
        leaf = values(getattr(theta, name)).detach().requires_grad_()
        delta = _plain(theta)._replace(**{name: leaf}).decompress()
    return torch.autograd.grad(delta, leaf, (delta.detach() - x) * mu)[0]
