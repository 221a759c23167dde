"""Distillation: a network learns what another one says of each image, instead of its label.

    teacher = load_teacher("feather-20k", split)
    loss = distillation_loss(model(images), teacher(images), temperature=3.0)

Source: Hinton et al. 2015.
"""

import hashlib
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from .build import build
from .data import Split
from .errors import InputError
from .pretrained import find_pretrained, pretrained
from .run import open_run


def load_teacher(name: str, split: Split) -> nn.Module:
    """Return a network that comes with the package, in evaluation mode, to learn from.

    It looks at an image once, whatever the views of its evaluation: training images are turned and
    shifted already. Raises InputError if there is none of this name, or if it was trained on other
    images than the split's, which might be the validation images.
    """
    run = open_run(_folder(name))
    if run.config["data"]["sha256"] != split.sha256:
        raise InputError(
            f"teacher {name}: was trained on other images, expected the split's",
            hint="use a recipe without a teacher",
        )
    arguments = {
        key: value for key, value in run.recipe.model_args.items() if key not in ("dense", "views")
    }
    teacher = build(run.recipe.model, arguments, split.num_classes, split.shape)
    run.load_weights(teacher)
    return teacher.eval().requires_grad_(False)


def teacher_title(name: str) -> str:
    """Return what a network that comes with the package cost, and which weights it has."""
    run, parameters = open_run(_folder(name)), pretrained()[name].parameters
    digest = hashlib.sha256(run.read_weights()).hexdigest()[:12]
    return f"{name}, {parameters:,} parameters, {run.recipe.epochs} epochs, weights {digest}"


def _folder(name: str) -> Path:
    folder = find_pretrained(name)
    if folder is None:
        raise InputError(
            f"teacher {name!r}: does not come with the package, expected one of "
            f"{', '.join(pretrained())}"
        )
    return folder


def distillation_loss(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of a network's softened probabilities with its teacher's.

    It is multiplied by the temperature squared, so that gradients keep their size.

    Args:
        outputs: Logits or log-probabilities of the network, shape (n, classes).
        taught: Those of the teacher, of the same shape.
        temperature: What both are divided by before the softmax.
    """
    soft = F.softmax(taught / temperature, 1)
    return F.cross_entropy(outputs / temperature, soft) * temperature**2
