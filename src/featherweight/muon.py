"""Muon: momentum, then the nearest orthogonal matrix as the step (Jordan et al. 2024).

    optimizer = Muon([convolution.weight], lr=0.02, momentum=0.9)
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Of Jordan et al. 2024: five rounds of this quintic bring every singular value to about 0.7 to 1.2.
ROUNDS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: Tensor) -> Tensor:
    """matrix (m, n) -> about U V of its singular value decomposition U S V, by Newton-Schulz rounds."""
    a, b, c = QUINTIC
    x: Tensor = matrix / (matrix.norm() + 1e-7)  # no singular value is over 1
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(Optimizer):
    """For weights of two or more dimensions, outputs first; torch.optim.Muon takes none but matrices."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, self.state[parameter], group["lr"], group["momentum"])

    @staticmethod
    def _move(parameter: Tensor, gradient: Tensor, state: dict[str, Any], lr: float, momentum: float) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["momentum"], momentum).flatten(1)  # as Nesterov's
        scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        parameter.add_(orthogonalised(ahead).reshape(parameter.shape), alpha=-lr * scale)
