"""Recipes: a network and its training hyper-parameters, as plain data. Imports no torch.

Example:
    recipe = find_recipe("feather-20k")
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    shorter = dataclasses.replace(recipe, epochs=6, ema=0.99)
"""

import copy
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ._files import check_name
from .errors import InputError

# Supported bits per quantised weight: 4, 2 or 1 weights fill a byte exactly.
BITS = (2, 4, 8)
MAX_SYNTHETIC = 4.0  # synthetic images per training image
SCHEDULES = ("one-cycle", "step", "constant")
# Fields that came later: JSON leaves them out where they have their defaults, so that older
# recipes keep their JSON and its hash.
LATER_FIELDS = (
    *("synthetic", "annealing", "step_epochs", "muon_depthwise", "teacher", "temperature"),
)
# Edition of the synthetic images: counted up with every change to them, so that runs that were
# trained on other images have another recipe. Before the field there was edition 1.
SYNTHETIC_EDITION = 3
# Of quick and reader; the default of Feather.
DEFAULT_LAYERS = ("conv 8", "conv 16 m2", "conv 16", "conv 24", "conv 24", "conv 32")
# Rotations and scales over which the predictions of the most accurate networks are averaged.
FOUR_VIEWS = [[10, 1.08], [10, 0.92], [-10, 1.08], [-10, 0.92]]
DEFAULT_RECIPE = "quick"
# Trains a network of the user's own, which may not take the smaller images of `quick`.
NETWORK_RECIPE = "feather-20k"


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the random changes to a training image. Every draw is uniform; 0 disables one.

    Raises InputError if a strength is outside its range.
    """

    rotation: float = 0.0
    "Largest rotation to either side, in degrees."
    shift: float = 0.0
    "Largest shift along either axis, in pixels."
    crop: int = 0
    "Pixels by which an image is padded by reflection before a crop of its own size is drawn from "
    "it: a shift by whole pixels."
    flip: float = 0.0
    "Probability of exchanging left and right."
    cutout: int = 0
    "Side of a square that is filled with the mean of the training pixels, in pixels (DeVries and "
    "Taylor 2017). Its centre is drawn from the image, so part of it may be outside."
    scale: float = 0.0
    "Largest relative change of size: 0.1 scales by 0.9 to 1.1."
    shear: float = 0.0
    "Largest shear along x to either side, in degrees."
    elastic: float = 0.0
    "Largest displacement of the points of a 5x5 grid, in pixels; bicubic between the points."
    thickness: float = 0.0
    "Largest step towards strokes one pixel thicker or thinner on every side, as a fraction."
    blur_kernel: int = 0
    "Side of the Gaussian blur's kernel in pixels, an odd number."
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    "Smallest and largest standard deviation of the blur, in pixels."
    brightness: float = 0.0
    "Largest relative change of brightness: 0.2 multiplies by 0.8 to 1.2."
    contrast: float = 0.0
    "Largest relative change of contrast about the image's mean: 0.2 multiplies by 0.8 to 1.2."

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "blur_sigma", tuple(self.blur_sigma))
        least, most = self.blur_sigma
        if (
            not 0 < least <= most
            or self.blur_kernel < 0
            or (self.blur_kernel and self.blur_kernel % 2 == 0)
        ):
            raise InputError(
                f"blur: got kernel {self.blur_kernel} and sigma {self.blur_sigma}, "
                "expected an odd kernel and 0 < smallest <= largest"
            )
        for name, value in asdict(self).items():
            if name not in ("blur_sigma", "blur_kernel") and not 0 <= value < 90:
                raise InputError(f"{name}: got {value}, expected 0 to below 90")
        for name in ("crop", "cutout"):
            if type(value := getattr(self, name)) is not int:
                raise InputError(f"{name}: got {value!r}, expected a whole number of pixels")
        if self.flip > 1:
            raise InputError(f"flip: got {self.flip}, expected a probability")
        if max(self.scale, self.brightness, self.contrast) >= 1:
            raise InputError("scale, brightness and contrast: expected fractions below 1")


@dataclass(frozen=True)
class Recipe:
    """A network and every hyper-parameter of its training.

    The loss is the negative log-likelihood; the optimiser is SGD or Adam, and for the
    convolutions perhaps Muon.
    Raises InputError if a value is outside its range.
    """

    name: str
    "Name of the recipe, used for run folders and in tables."
    model: str
    "The network's class, as MODULE:CLASS or FILE.py:CLASS."
    model_args: dict[str, Any] = field(hash=False)
    "Keyword arguments of the network's constructor (JSON values), beside the number of classes."
    epochs: int
    "Number of passes over the training images; the last epoch's weights are the result."
    lr: float
    "Learning rate; the peak of a one-cycle schedule."
    contract: str = "era-v3-s6"
    "The contract that the recipe is made for, used unless another one is named."
    schedule: str = "one-cycle"
    "Learning-rate schedule: one-cycle (up, then down to zero), step (a tenth of the rate every "
    "few epochs) or constant."
    warmup: float = 0.2
    "Fraction of the steps in which the one-cycle learning rate rises."
    annealing: str = "linear"
    "Shape of one cycle: linear, or cosine, which is PyTorch's OneCycleLR with its defaults: half "
    "a cosine up from a 25th of the peak, and half a cosine down. The momentum stays constant."
    step_epochs: int = 0
    "Number of epochs after which the step schedule divides the learning rate by ten, each time."
    batch_size: int = 128
    "Largest number of images in a batch; the batches of an epoch differ by at most one image."
    ghost_batch: int = 0
    "Largest number of images in a ghost batch (Hoffer et al. 2017), part of a batch with its own "
    "batch-norm statistics, which one worker computes on one thread. 0, or a number that is not "
    "smaller than the batch: it is not split."
    optimiser: str = "sgd"
    "Optimiser of the weights that Muon does not train: sgd or adam (Kingma and Ba 2015)."
    momentum: float = 0.9
    "SGD momentum; also the momentum of Muon, and Adam's first decay rate."
    nesterov: bool = False
    "Whether SGD uses Nesterov momentum (Nesterov 1983)."
    muon: float = 0.0
    "Muon's learning rate for convolution weights, as a multiple of `lr`. 0: SGD for all weights."
    muon_depthwise: bool = True
    "Whether Muon trains depthwise convolutions too. Each of their filters sees one channel, so "
    "that there is no matrix to make orthogonal, and SGD trains them better."
    weight_decay: float = 0.0
    "L2 weight decay of SGD and Adam; biases and batch-norm parameters are exempt."
    ema: float = 0.0
    "Decay per step of the moving average of weights and buffers that is evaluated. 0: no EMA."
    label_smoothing: float = 0.0
    "Share of each label that is spread evenly over all classes (Szegedy et al. 2016)."
    resize: float = 1.0
    "Scale of the images in the first steps (progressive resizing, Howard 2018): 0.8 gives 22x22."
    resize_until: float = 0.0
    "Fraction of the steps in which images are resized."
    weight_bits: int = 0
    "Bits per convolution weight in quantisation-aware training: 2, 4 or 8. 0: floats."
    quantise_from: float = 0.5
    "Fraction of the steps after which weights are quantised (straight-through estimator)."
    augmentation: Augmentation = field(default_factory=Augmentation)
    "Strengths of the random changes to training images."
    synthetic: float = 0.0
    "Synthetic images that an epoch adds, per training image: digits in styles that MNIST lacks, "
    "and images that show no digit, for which each class is to be equally probable. 0: none."
    teacher: str = ""
    "Network that comes with the package and whose probabilities for each augmented image are "
    "learned instead of its label (distillation, Hinton et al. 2015). Empty: labels are learned."
    temperature: float = 3.0
    "What the logits of network and teacher are divided by before their probabilities are compared."
    synthetic_edition: int = SYNTHETIC_EDITION
    "Edition of the synthetic images. Only today's can be trained on."

    def __post_init__(self) -> None:
        for key, kind in (("name", str), ("model", str), ("model_args", dict)):
            if not isinstance(value := getattr(self, key), kind):
                expected = "a table of arguments" if kind is dict else "a text"
                raise InputError(f"{key}: got {value!r}, expected {expected}")
        check_name("name", self.name, in_paths=True)
        # A copy, so that a recipe and one derived from it share no mutable object.
        object.__setattr__(self, "model_args", copy.deepcopy(self.model_args))
        for key, least in (("epochs", 1), ("batch_size", 2)):
            value = getattr(self, key)
            if type(value) is not int or value < least:
                raise InputError(
                    f"{key}: got {value!r}, expected a whole number of at least {least}"
                )
        if type(self.ghost_batch) is not int or self.ghost_batch < 0 or self.ghost_batch == 1:
            raise InputError(
                f"ghost_batch: got {self.ghost_batch!r}, expected 0, or a whole number from 2"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr: got {self.lr}, expected more than 0")
        if self.schedule not in SCHEDULES:
            raise InputError(
                f"schedule: got {self.schedule!r}, expected one of {', '.join(SCHEDULES)}"
            )
        if self.annealing not in ("linear", "cosine"):
            raise InputError(f"annealing: got {self.annealing!r}, expected linear or cosine")
        least = 1 if self.schedule == "step" else 0
        if type(self.step_epochs) is not int or self.step_epochs < least:
            raise InputError(
                f"step_epochs: got {self.step_epochs!r} with {self.schedule}, expected a whole "
                f"number of at least {least}"
            )
        if self.optimiser not in ("sgd", "adam"):
            raise InputError(f"optimiser: got {self.optimiser!r}, expected sgd or adam")
        if self.optimiser == "adam" and self.nesterov:
            raise InputError("nesterov: got true with adam, expected sgd, or false")
        if not (math.isfinite(self.muon) and self.muon >= 0):
            raise InputError(f"muon: got {self.muon}, expected 0 or more")
        if type(self.muon_depthwise) is not bool:
            raise InputError(f"muon_depthwise: got {self.muon_depthwise!r}, expected true or false")
        if not 0 < self.resize <= 1:
            raise InputError(f"resize: got {self.resize}, expected more than 0 to 1")
        if not isinstance(self.teacher, str):
            raise InputError(f"teacher: got {self.teacher!r}, expected a network's name, or none")
        if self.teacher and (self.synthetic or self.label_smoothing):
            raise InputError(
                "teacher: got one with synthetic images or label smoothing, which change the "
                "labels, expected none of these, because no label is learned"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature: got {self.temperature}, expected more than 0")
        if self.weight_bits not in (0, *BITS):
            raise InputError(
                f"weight_bits: got {self.weight_bits!r}, expected 0, {', '.join(map(str, BITS))}"
            )
        if not 0 <= self.synthetic <= MAX_SYNTHETIC:
            raise InputError(f"synthetic: got {self.synthetic}, expected 0 to {MAX_SYNTHETIC:g}")
        edition = self.synthetic_edition
        if type(edition) is not int or not 1 <= edition <= SYNTHETIC_EDITION:
            raise InputError(
                f"synthetic_edition: got {edition!r}, expected 1 to {SYNTHETIC_EDITION}"
            )
        for key in (
            "warmup",
            "momentum",
            "ema",
            "weight_decay",
            "label_smoothing",
            "resize_until",
            "quantise_from",
        ):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"{key}: got {getattr(self, key)}, expected 0 to below 1")

    @property
    def n_ghosts(self) -> int:
        """Number of ghost batches in a batch; they differ by at most one image."""
        return math.ceil(self.batch_size / self.ghost_batch) if self.ghost_batch else 1

    def n_synthetic(self, n_train: int) -> int:
        """Return the number of synthetic images that an epoch adds to `n_train` training images."""
        return round(self.synthetic * n_train)

    def n_images(self, n_train: int) -> int:
        """Return the number of images of an epoch: `n_train` training images and synthetic ones."""
        return n_train + self.n_synthetic(n_train)

    def lr_at(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step, 0 to n_steps - 1 (one-cycle: Smith 2018)."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            return self.lr * 0.1 ** (step * self.epochs // n_steps // self.step_epochs)
        peak = self.peak_step(n_steps)
        if self.annealing == "cosine":
            if step <= peak:
                lowest, part = 1 / 25, step / peak if peak else 1.0
            else:
                lowest, part = 1 / 250_000, (n_steps - 1 - step) / (n_steps - 1 - peak)
            return self.lr * (lowest + (1 - lowest) * (1 - math.cos(math.pi * part)) / 2)
        rise = peak + 1
        return self.lr * min((step + 1) / rise, (n_steps - step) / max(1, n_steps - rise))

    def peak_step(self, n_steps: int) -> int:
        """Return the step, 0 to n_steps - 1, from which on one cycle's learning rate falls."""
        return max(1, round(self.warmup * n_steps)) - 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        values = asdict(self)
        values["augmentation"]["blur_sigma"] = list(self.augmentation.blur_sigma)
        for item in fields(Recipe):
            if item.name in LATER_FIELDS and values[item.name] == item.default:
                del values[item.name]
        if not self.synthetic:
            del values["synthetic_edition"]
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Recipe":
        """Return the recipe with these values.

        Synthetic images without an edition are of the first. Raises InputError if a key is unknown
        or missing, or a value is wrong.
        """
        if values.get("synthetic"):
            values = {"synthetic_edition": 1} | values
        try:
            return Recipe(**values | {"augmentation": Augmentation(**values["augmentation"])})
        except (TypeError, KeyError) as error:
            names = ", ".join(item.name for item in fields(Recipe))
            raise InputError(f"recipe: {error}; expected {names}") from error


# Hyper-parameters that most recipes of the Feather family share.
FEATHER: dict[str, Any] = {
    "model": "featherweight.model:Feather",
    "lr": 0.2,
    "nesterov": True,
    "batch_size": 128,
    "ghost_batch": 64,
    "weight_decay": 2e-4,
    "ema": 0.99,
}

RECIPES = (
    # A minute on two cores: few epochs, smaller images in the first half of the steps, and weak
    # augmentation, because it has less time.
    Recipe(
        "quick",
        **FEATHER,
        epochs=11,
        muon=0.2,
        resize=0.8,
        resize_until=0.5,
        model_args={"layers": list(DEFAULT_LAYERS), "dropout": 0.02, "dense": True},
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    Recipe(
        "feather-20k",
        **FEATHER,
        epochs=19,
        muon=0.2,
        muon_depthwise=False,
        model_args={
            "layers": [
                *("conv 8", "conv 16 m2", "conv 16 p1"),
                *("sep 56", "sep 64", "sep 64", "sep 64"),
            ],
            "dropout": 0.02,
            "views": FOUR_VIEWS,
        },
        augmentation=Augmentation(rotation=13, shift=1.56, scale=0.13, shear=6.5),
    ),
    # The network of quick for pictures of anybody's: it knows more styles of digits, and is
    # unsure of what is no digit.
    Recipe(
        "reader",
        **FEATHER,
        epochs=19,
        muon=0.2,
        contract="reader",
        synthetic=0.2,
        model_args={"layers": list(DEFAULT_LAYERS), "dropout": 0.02, "dense": True},
        augmentation=Augmentation(rotation=10, shift=1.2, scale=0.1, shear=5),
    ),
    Recipe(
        "feather-8k",
        **FEATHER,
        epochs=15,
        muon=0.2,
        muon_depthwise=False,
        contract="era-s7",
        model_args={
            "layers": ["conv 8", "conv 8 m2", "conv 16 p1", "sep 32", "sep 32", "sep 32", "sep 48"],
            "dropout": 0.02,
            "views": FOUR_VIEWS,
        },
        augmentation=Augmentation(rotation=13, shift=1.56, scale=0.13, shear=6.5),
    ),
    # A smaller network gains less from augmentation and dropout, so both get weaker.
    Recipe(
        "feather-4k",
        **FEATHER,
        epochs=19,
        muon=0.2,
        muon_depthwise=False,
        contract="under-4k",
        model_args={
            "layers": ["conv 8", "conv 8 m2", "sep 16", "sep 24", "sep 24", "sep 40"],
            "dropout": 0.01,
            "views": FOUR_VIEWS,
        },
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    # Where parameters are this few, a linear layer is not worth its own. This is
    # the smallest recipe whose mean over ten seeds is above 99.40 % on validation images.
    Recipe(
        "feather-2500",
        **FEATHER,
        epochs=19,
        muon=0.4,
        muon_depthwise=False,
        contract="under-2500",
        model_args={
            "layers": ["conv 8", "conv 8 m2", "sep 16", "sep 16", "sep 24"],
            "dropout": 0.01,
            "views": FOUR_VIEWS,
            "head": "sep",
        },
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    Recipe(
        "feather-2k",
        **FEATHER,
        epochs=19,
        muon=0.4,
        muon_depthwise=False,
        contract="under-2k",
        model_args={
            "layers": ["conv 8", "sep 8 m2", "sep 16", "sep 16", "sep 24"],
            "dropout": 0.01,
            "views": FOUR_VIEWS,
            "head": "sep",
        },
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    Recipe(
        "feather-1k",
        **FEATHER,
        epochs=19,
        muon=0.4,
        muon_depthwise=False,
        contract="under-1k",
        model_args={
            "layers": ["conv 8", "sep 8 m2", "sep 8", "sep 10", "sep 10"],
            "dropout": 0.005,
            "views": FOUR_VIEWS,
            "head": "sep",
        },
        augmentation=Augmentation(rotation=5, shift=0.7, scale=0.05, shear=3),
    ),
    # For C on microcontrollers, named by the bytes of their constants. The weights have 4 bits,
    # because twice as many fit in the same bytes as with 8 bits.
    Recipe(
        "int4-8kb",
        **FEATHER,
        epochs=15,
        muon=0.2,
        weight_bits=4,
        model_args={
            "layers": [
                "conv 8",
                "conv 16 m2",
                "conv 16 p1",
                "sep 48",
                "sep 48",
                "sep 48",
                "sep 48",
            ],
            "dropout": 0.02,
            "dense": True,
        },
        augmentation=Augmentation(rotation=10, shift=1.2, scale=0.1, shear=5),
    ),
    Recipe(
        "int4-4kb",
        **FEATHER,
        epochs=12,
        muon=0.2,
        weight_bits=4,
        model_args={
            "layers": ["conv 8", "conv 8 m2", "sep 24", "sep 32", "sep 32", "sep 48"],
            "dropout": 0.01,
            "dense": True,
        },
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    # Time decides here: after a stride of 2, a quarter of the places are left to all other layers.
    Recipe(
        "int4-fast",
        **FEATHER,
        epochs=19,
        muon=0.2,
        muon_depthwise=False,
        weight_bits=4,
        model_args={
            "layers": ["conv 8 k5 s2", "conv 12", "conv 16", "conv 16", "sep 40", "sep 40"],
            "dropout": 0.01,
        },
        augmentation=Augmentation(rotation=7, shift=0.9, scale=0.07, shear=4),
    ),
    # With its stack it fits in 2 kB of RAM, because after the stride no layer is wide.
    Recipe(
        "int4-1kb",
        **FEATHER,
        epochs=19,
        muon=0.4,
        muon_depthwise=False,
        weight_bits=4,
        model_args={
            "layers": ["conv 4 k5 s2", "conv 8", "sep 12", "sep 16"],
            "dropout": 0.002,
            "head": "sep",
        },
        augmentation=Augmentation(rotation=3, shift=0.4, scale=0.03, shear=2),
    ),
    # The smallest: 488 bytes of constants. It learns nothing by heart, so images are not augmented.
    Recipe(
        "int4-tiny",
        **FEATHER,
        epochs=19,
        muon=0.4,
        muon_depthwise=False,
        weight_bits=4,
        model_args={
            "layers": ["conv 4 k5 m2", "conv 4", "conv 4", "sep 8"],
            "dropout": 0.002,
            "dense": True,
        },
    ),
    # The shortest training that reaches 99.4 %: smaller images first, max-pooling in the first
    # layer, large batches, a high learning rate, and the weakest augmentation and dropout, because
    # in four epochs nothing is learnt by heart.
    Recipe(
        "sprint",
        **FEATHER
        | {
            "lr": 0.8,
            "batch_size": 256,
            "ghost_batch": 128,
            "ema": 0.98,
            "weight_decay": 5e-4,
        },
        epochs=4,
        warmup=0.3,
        label_smoothing=0.05,
        resize=0.8,
        resize_until=0.6,
        model_args={
            "layers": ["conv 12 k5 m2", "conv 16", "conv 24", "conv 24", "conv 24"],
            "dropout": 0.005,
        },
        augmentation=Augmentation(rotation=2, shift=0.28, scale=0.02, shear=1.2),
    ),
    # CIFAR-10 in 44,650 parameters and 5.8 million multiply-accumulates. Most of them are spent at
    # half of the image's sides, where a network this small learns most from each.
    Recipe(
        "cifar-50k",
        **FEATHER | {"weight_decay": 5e-4},
        epochs=20,
        muon=0.2,
        contract="era-s8-bn",
        model_args={
            "layers": [
                "conv 16 p1",
                "conv 32 s2 p1",
                "conv 32 p1",
                "conv 48 s2 p1",
                *("sep 64 p1", "sep 64 p1", "sep 96 p1"),
            ],
            "dropout": 0.0,
        },
        augmentation=Augmentation(flip=0.5, crop=2),
    ),
    # CIFAR-10 under the conditions of another assignment: strides in place of max-pooling, a
    # receptive field of over 44 pixels by dilation, separable convolutions.
    Recipe(
        "cifar-200k",
        **FEATHER | {"weight_decay": 5e-4},
        epochs=14,
        muon=0.2,
        contract="era-s9",
        model_args={
            "layers": [
                "conv 24 p1",
                "conv 48 s2 p1",
                "conv 48 p1",
                "conv 96 s2 p1",
                *("sep 96 p2 d2", "sep 128 p2 d2", "sep 128 p2 d2", "sep 128 p1", "sep 192 p1"),
            ],
            "dropout": 0.02,
        },
        augmentation=Augmentation(flip=0.5, crop=4, cutout=8),
    ),
    # The assignment's own network and training, at 19 epochs because 20 is not fewer than 20. The
    # assignment names its augmentations without strengths: these are usual ones (torchvision's
    # default blur, 10 degrees, shifts and scales of a tenth, brightness and contrast of a fifth).
    Recipe(
        "baseline",
        "featherweight.model:BaselineNet",
        {},
        epochs=19,
        lr=0.1,
        schedule="constant",
        augmentation=Augmentation(
            rotation=10, shift=2.8, scale=0.1, blur_kernel=5, brightness=0.2, contrast=0.2
        ),
    ),
)


def find_recipe(name: str) -> Recipe:
    """Return a copy of a preset; changing it does not change the preset.

    Raises InputError with the presets' names if there is none of this name.
    """
    for recipe in RECIPES:
        if recipe.name == name:
            return replace(recipe)
    raise InputError(
        f"recipe {name!r}: unknown, expected one of {', '.join(recipe.name for recipe in RECIPES)}"
    )
