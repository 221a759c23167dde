"""What an audit has found out about a network and its training, as plain data.

    facts = Facts(accuracies={"val": Evaluated({0: (9943, 10_000)})})

requirements/ judges these facts; structure.py and audit.py find them out. Nothing here imports
PyTorch.
"""

from dataclasses import dataclass, field

from ._layers import LayerTable

# Dropout and batch norm must change the outputs by this fraction of their deviation: where all
# paths from the images lead through such a layer, and where some paths avoid it.
MIN_EFFECT, MIN_BYPASSED_EFFECT = 1e-3, 1e-2
# The smallest fraction of activations that a dropout must zero.
MIN_DROPOUT = 1e-3


@dataclass(frozen=True)
class Effect:
    """What is found of batch norms, or of dropouts, in training passes."""

    count: int
    "How many of them the output depends on."
    bypassed: bool
    "Whether some paths from the images avoid all of them."
    effect: float
    "Change of the outputs, as a fraction of their deviation, with other images or random numbers."
    done: str
    "What they did, as text."

    @property
    def works(self) -> bool:
        """Whether there is such a layer, with an effect."""
        return self.count > 0 and self.effect > self.least_effect

    @property
    def least_effect(self) -> float:
        """The effect that is too small."""
        return MIN_BYPASSED_EFFECT if self.bypassed else MIN_EFFECT


@dataclass(frozen=True)
class Structure:
    """What a network's graph, or its forward passes, show about it."""

    n_params: int
    "Stored numbers that the passes read."
    n_trainable: int
    "Those of them that are parameters with a gradient."
    declared: int
    "Elements of the parameters that the module declares."
    counted: str
    "How the numbers were counted."
    batch_norm: Effect
    "Batch norms that run in training."
    dropout: Effect
    "Dropouts that run in training."
    changed: dict[str, str]
    "What was changed in a second training pass, to see the effect of `batch norm` and `dropout`."
    rates: tuple[tuple[float, float], ...]
    "The rate of each dropout and its uncertainty, which is 0 where the operation states the rate."
    heads: set[str]
    "Last layers before log-softmax: linear, gap, other."
    head_seen: str
    "How the heads were recognised."
    dependence: str
    "On what else than its image an output in evaluation mode depends; empty if on nothing."
    evaluated: str
    "How the evaluation mode was looked at."


@dataclass(frozen=True)
class Builds:
    """What two networks of one class have in common that were built with different seeds."""

    tensors: int
    "Trained tensors that are not of one number alone."
    alike: tuple[str, ...]
    "Names of those that are the same or almost, unless they are a simple pattern."
    unpaired: tuple[str, ...] = ()
    "Names of large tensors that only one of the two has, or that are of another shape there."
    fixed: tuple[str, ...] = ()
    "Names of tensors that are the same and never trained, such as fixed filters."
    n_fixed: int = 0
    "How many numbers these are."
    total: int = 0
    "How many numbers are stored."
    mostly_fixed: bool = False
    "Whether these are more than half of all numbers, and more than a few different ones."


@dataclass(frozen=True)
class Training:
    """What a run's recipe says about its training, and what log and state say about its epochs."""

    epochs: int
    "Number of epochs of the recipe."
    logged: int
    "Rows of the log."
    saved: int
    "Epoch of the saved state."
    agree: bool
    "Whether all three agree, row by row."
    batch_size: int
    "Largest number of images in a batch."
    optimisers: tuple[str, ...]
    "Names of the optimisers, such as sgd and muon."
    schedule: str
    "Name of the learning rate's schedule."
    peak_epoch: float
    "Epochs after which the learning rate is highest."
    teacher: str = ""
    "The network whose probabilities were learned, and what it cost. Empty: labels were learned."


@dataclass(frozen=True)
class SplitFound:
    """What is found of a split."""

    faults: tuple[str, ...]
    "What is wrong with it, one sentence each."
    train: int
    "Number of training images."
    val: int
    "Number of validation images."
    how: str
    "How it was checked."
    synthetic: int = 0
    "Number of synthetic images that the training added."


@dataclass(frozen=True)
class Evaluated:
    """Counts of one part of a split, evaluated again with the weights of the last epochs."""

    counts: dict[int, tuple[int, int]]
    "Correct predictions and images, by how many epochs before the last the weights are from."
    epochs: int | None = None
    "The last epoch of a run. None: weights without one, of one epoch."
    how: str = ""
    "What else to say about the evaluation."


@dataclass
class Facts:
    """All that an audit has found out. None: it could not look."""

    structure: Structure | None = None
    "Its structure."
    layers: LayerTable | None = None
    "The layers of its graph of evaluation mode."
    training_layers: LayerTable | None = None
    "The layers of its graph of training mode."
    builds: Builds | None = None
    "Two builds of its class with different seeds."
    training: Training | None = None
    "Its training, of a run."
    split: SplitFound | None = None
    "The images that it is judged on."
    accuracies: dict[str, Evaluated] = field(default_factory=dict)
    "Its evaluation on `val` and `train`, where there are weights."

    @property
    def n_params(self) -> int | None:
        """Stored numbers that the network reads, where its structure is known."""
        return None if self.structure is None else self.structure.n_params

    def has(self, name: str) -> bool:
        """Return whether it could look at what a field or a part of the split is named."""
        return name in self.accuracies or getattr(self, name, None) is not None
