"""The Muon optimiser: momentum, then a step along the nearest orthogonal matrix.

Source: Jordan et al. 2024.

    optimizer = Muon([convolution.weight], lr=0.02, momentum=0.9)
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

# Five iterations of this quintic polynomial bring every singular value to about 0.7 to 1.2 (Jordan
# et al. 2024).
N_ITERATIONS, QUINTIC = 5, (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return, for each matrix with singular value decomposition U S V, approximately U V.

    Uses Newton-Schulz iterations. The matrices, each (m, n), may differ in shape. Stacks of
    matrices, each (replicas, m, n), are treated matrix by matrix.
    """
    a, b, c = QUINTIC
    wide = [matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT for matrix in matrices]
    # One batch, (matrices, m, n), padded with zeros, which stay zero: for products this small the
    # number of calls decides the time.
    padded = matrices[0].new_zeros(
        len(wide),
        *matrices[0].shape[:-2],
        max(w.shape[-2] for w in wide),
        max(w.shape[-1] for w in wide),
    )
    for slot, matrix in zip(padded, wide, strict=True):
        slot[..., : matrix.shape[-2], : matrix.shape[-1]] = matrix
    x = padded.flatten(0, -3)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # no singular value exceeds 1
    for _ in range(N_ITERATIONS):
        square = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    steps = [
        slot[..., : matrix.shape[-2], : matrix.shape[-1]]
        for slot, matrix in zip(x.view_as(padded), wide, strict=True)
    ]
    return [
        step if step.shape == matrix.shape else step.mT
        for step, matrix in zip(steps, matrices, strict=True)
    ]


class Muon(Optimizer):
    """Muon for weights of two or more dimensions, the outputs' first.

    torch.optim.Muon accepts matrices only; here convolution weights are flattened to matrices.

    Args:
        parameters: Weights, each (outputs, ...).
        lr: Learning rate. In a CUDA graph `param_groups` may hold it as a tensor of no dimension.
        momentum: Decay of the moving average of gradients.
        stacked: Whether weights are stacks, each (replicas, outputs, ...), that train side by side.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float, stacked: bool = False
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        self.stacked = stacked

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient. Raises ValueError if given a closure."""
        if closure is not None:
            raise ValueError("Muon.step: got a closure, expected none")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov momentum
            first = 2 if self.stacked else 1  # of the dimensions that become a matrix's columns
            steps = orthogonalised([gradient.flatten(first) for gradient in ahead])
            for parameter, step in zip(parameters, steps, strict=True):
                scale = max(1.0, step.shape[-2] / step.shape[-1]) ** 0.5
                if isinstance(group["lr"], Tensor):
                    parameter.addcmul_(step.reshape(parameter.shape), group["lr"], value=-scale)
                else:
                    parameter.add_(step.reshape(parameter.shape), alpha=-group["lr"] * scale)
