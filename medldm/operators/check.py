"""One check that proves any operator, ours or a plugin's."""

from __future__ import annotations

import torch

from medldm.errors import InputError
from medldm.geometry import Geometry
from medldm.operators import Operator


def check_operator(operator: Operator, shape: tuple[int, int, int] = (8, 12, 8), *, seed: int = 0) -> None:
    """Check linearity, ``<A x, y> = <x, A^T y>`` and that the output geometry has the output's shape.

    Raises InputError with both numbers where they differ by more than 1e-6 of their size.
    """
    name = type(operator).__name__
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn((2, 1, 1, *shape), generator=generator, dtype=torch.float64)
    y = operator.forward(u)
    w = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    left, right = float((y * w).sum()), float((u * operator.adjoint(w)).sum())
    tolerance = 1e-6 * float(y.norm() * w.norm())
    if abs(left - right) > tolerance:
        raise InputError(
            name, f"<A x, y> = {left:.9g}, <x, A^T y> = {right:.9g}", "equal numbers", "fix adjoint()"
        )
    if float((operator.forward(2 * u - 3 * v) - (2 * y - 3 * operator.forward(v))).abs().max()) > 1e-6:
        raise InputError(name, "A(2u - 3v) != 2 A(u) - 3 A(v)", "a linear operator")
    grid = operator.output_geometry(Geometry.from_spacing(shape, (1.0, 1.0, 1.0)))
    if tuple(grid.shape) != tuple(y.shape[2:]):
        raise InputError(name, f"output_geometry {grid.shape}, forward {tuple(y.shape[2:])}", "equal shapes")
