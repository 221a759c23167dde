"""Turn a network into an ONNX graph with PyTorch's exporter.

Example:
    graph = to_graph(model, split, evidence=True)       # outputs and metadata as `onnx.py` says
    pixels = as_input(split.val.pixels).numpy()         # (n, height, width) of grey images
    make_session(graph).run(["log_probabilities"], {"pixels": pixels})
"""

import copy
import logging
import warnings

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ..capture import capture, is_scripted
from ..data import Split
from ..errors import InputError, NoGraphError
from ..evaluate import normalise
from ..exported import Exported
from ..locate import reason
from ..model import Block, Pool
from ..passes import Pass
from ._outputs import add_filters, add_output, drop_copy, strip_source
from .evidence import Grid, Head, find_head, measure_grid

LAST_MAPS = "last_maps"  # the output that the head takes the mean of
EVIDENCE_TOLERANCE = 1e-3  # difference of a logit
EVIDENCE_IMAGES = 100  # on which the evidence must sum to the logits


class UnfaithfulError(Exception):
    """The exported file does not read the validation images as the run does."""


def as_input(pixels: Tensor) -> Tensor:
    """Return pixels (n, channels, height, width) as a graph takes them.

    They are (n, height, width) of grey images, and (n, 3, height, width) in colour.
    """
    return pixels[:, 0] if pixels.shape[1] == 1 else pixels


class _Shipped(nn.Module):
    """Pixels as `as_input` returns them -> log-probabilities (n, classes), and other outputs."""

    def __init__(
        self, model: nn.Module, mean_std: tuple[float, float], head: Head | None = None
    ) -> None:
        super().__init__()
        self.model, self.mean_std, self.head = model, mean_std, head
        # Stages are the blocks of a Feather network, or the convolutions of any other.
        kind = Block if any(isinstance(m, Block) for m in model.modules()) else nn.Conv2d
        self.stages = [m for m in model.modules() if isinstance(m, kind) and not is_scripted(m)]
        self.names = ["log_probabilities", *(f"maps_{i + 1}" for i in range(len(self.stages)))]
        if head is not None:
            self.names.append(LAST_MAPS)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        last: list[Tensor] = []
        hooks = [
            stage.register_forward_hook(lambda _, __, out: maps.append(out.float()))
            for stage in self.stages
        ]
        if self.head is not None:
            source = self.model.get_submodule(self.head.name)
            hooks.append(source.register_forward_hook(lambda _, __, out: last.append(out)))
        # (n, height, width) -> (n, 1, height, width), or (n, 3, height, width) -> (n, classes)
        images = pixels if pixels.ndim == 4 else pixels[:, None]
        # A part of the network may be of another precision; readers expect 32-bit floats.
        logits = self.model(normalise(images, self.mean_std)).float()
        log_probabilities = torch.log_softmax(logits, 1)
        for hook in hooks:
            hook.remove()
        if self.head is None:
            return log_probabilities, *maps
        return log_probabilities, *maps, last[-1]


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of a network with batch norms behind max-pools folded into convolutions.

    The exporter folds a batch norm that follows a convolution directly. A max-pool in between
    commutes with scales that are positive; batch norms with any other scale are left as they are.
    """
    model = copy.deepcopy(model).eval()
    for block in model.modules():
        if (
            not isinstance(block, Block)
            or len(block.norms) > 1
            or not isinstance(block.convolution, nn.Sequential)
        ):
            continue
        norm, parts = block.norms[0], list(block.convolution)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not isinstance(parts[-1], Pool) or (norm.weight <= 0).any():
            continue
        last = parts[0][-1] if isinstance(parts[0], nn.Sequential) else parts[0]
        assert isinstance(last, nn.Conv2d)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        last.weight = nn.Parameter(last.weight * scale[:, None, None, None])
        last.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
        block.norms = nn.ModuleList([nn.Identity()])
    return model


def _find_evidence(model: nn.Module, split: Split) -> tuple[Head, Grid] | None:
    """Return the network's head and where its places lie, or None if it has no such head."""
    images = normalise(split.val.pixels[:EVIDENCE_IMAGES], split.mean_std)
    head = find_head(model, images)
    if head is None:
        return None
    channels, height, width = images.shape[1:]
    grid = measure_grid(model, head, (channels, height, width))
    return None if grid is None else (head, grid)


def to_graph(model: nn.Module, split: Split, *, evidence: bool) -> onnx.ModelProto:
    """Export a network with PyTorch's exporter, and strip what describes its source code.

    With `evidence`, the graph gets the outputs that explain an answer, and says where they lie.
    """
    folded = fold_batch_norm(model)
    found = _find_evidence(folded, split) if evidence else None
    shipped = _Shipped(folded, split.mean_std, found and found[0]).eval()
    exporter_log = logging.getLogger("torch")  # it reports packages that are not needed here
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of PyTorch about its own code
            program = torch.onnx.export(
                shipped,
                (as_input(split.val.pixels[:2]),),
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                input_names=["pixels"],
                output_names=shipped.names,
            )
    except Exception as error:  # a user's network may hold operations that ONNX does not have
        raise _explain(error, model, split.shape) from error
    finally:
        exporter_log.setLevel(level)
    assert program is not None
    graph = program.model_proto
    _check_free(graph)
    strip_source(graph)
    if evidence:
        add_filters(graph)
    if found is not None:
        head, grid = found
        add_output(graph, "head", head.weight.numpy())
        add_output(graph, "bias", head.bias.numpy())
        maps = drop_copy(graph, LAST_MAPS)
        _check_evidence(graph, maps, head, split)
        for key, value in (
            ("evidence_maps", maps),
            ("evidence_pools", " ".join(map(str, head.pools))),
            ("evidence_extent", " ".join(f"{x:g}" for x in grid.extent)),
            ("evidence_field", " ".join(f"{x:g}" for x in grid.field)),
        ):
            graph.metadata_props.add(key=key, value=value)
    return graph


def _explain(error: BaseException, model: nn.Module, shape: tuple[int, ...]) -> InputError:
    """Return why a network can't be exported: a line of its code, or what the exporter says."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    cause, hint = reason(error), "write it with layers and functions of tensors that ONNX has"
    if not isinstance(model, Exported):
        try:
            capture(model, [Pass(False, shape)])
        except NoGraphError as why:
            cause, hint = why.message, str(why.hint).partition("; or judge")[0]
        else:  # a traced module can be followed, but not all of its operations are ONNX's
            scripted = next((n for n, part in model.named_modules() if is_scripted(part)), None)
            if scripted is not None:
                cause = f"its module {scripted or 'itself'} is TorchScript (torch.jit): {cause}"
                hint = "leave out torch.jit.script and torch.jit.trace"
    return InputError(f"the network cannot be exported to ONNX: {cause}", hint=hint)


def _check_free(graph: onnx.ModelProto) -> None:
    """Raise InputError if a graph takes one number of images only."""
    size = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    if size:
        raise InputError(
            f"the network cannot be exported to ONNX for any number of images: its code makes a "
            f"constant of their number, here {size}",
            hint="write x.shape[0] or flatten(1), without int(), and no loop over images",
        )


def _check_evidence(graph: onnx.ModelProto, maps: str, head: Head, split: Split) -> None:
    """Check that the evidence of the first images sums to their logits.

    Raises:
        UnfaithfulError: It does not.
    """
    pixels = as_input(split.val.pixels[:EVIDENCE_IMAGES]).numpy()
    outputs = make_session(graph).run([maps, "log_probabilities"], {"pixels": pixels})
    last, log_probabilities = map(torch.from_numpy, outputs)
    found = torch.log_softmax(head.evidence(last).sum((2, 3)), 1)
    largest = float((found - log_probabilities.log_softmax(1)).abs().max())
    if not largest <= EVIDENCE_TOLERANCE:
        raise UnfaithfulError(
            f"the evidence differs from the logits by {largest:.2g}, expected at most "
            f"{EVIDENCE_TOLERANCE:g}"
        )


def make_session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of ONNX Runtime that takes one thread on the CPU.

    Raises InputError if it can't run the graph: it has no convolution of doubles, for example.
    """
    options = onnxruntime.SessionOptions()
    # As in `Reader`: with more threads, small batches spend their time waiting.
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of many classes without a common one
        raise InputError(
            f"ONNX Runtime can't run the network: {reason(error)}",
            hint="write and train the network in 32-bit floats",
        ) from error
