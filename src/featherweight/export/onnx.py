"""A finished run as one file that runs without PyTorch.

    exported = export_onnx(run, split, int8=False)      # RUN/model.onnx; int8: RUN/model-int8.onnx
    exported.path, exported.max_difference

The graph takes pixels (n, height, width) uint8, light ink on black as in the training images, n any number, and
gives `log_probabilities` (n, classes); after it `maps_1`, `maps_2`, ... are what each stage makes of the images.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ..audit import audit_model
from ..data import Images, Split
from ..errors import InputError
from ..evaluate import Evaluation, evaluate, normalise
from ..model import Block, Pool
from ..run import Run, write_atomic

BATCHES = (1, 2, 7, 1000)  # images a call at which the file is compared with PyTorch
CALIBRATION = 1000  # training images from which the ranges of 8-bit activations are taken
MOST_LOST = 0.0005  # of the accuracy, by 8 bits
WRONG_WHEN_SURE = (
    0.001  # of the validation images, above the confidence from which a reading counts as sure
)


class Unfaithful(Exception):
    """The file does not read the validation images as the run does."""


@dataclass(frozen=True)
class Exported:
    """A file that reads as the run does, and how that was found."""

    path: Path
    float_result: Evaluation
    "Of PyTorch on the validation images."
    result: Evaluation
    "Of the file on the same, its temperature applied."
    max_difference: float
    "Largest between a probability by PyTorch and one by the file, over all images and batch sizes."
    metadata: dict[str, str]


class _Shipped(nn.Module):
    """pixels (n, height, width) uint8 -> log-probabilities (n, classes), then the map of every stage."""

    def __init__(self, model: nn.Module, mean_std: tuple[float, float]) -> None:
        super().__init__()
        self.model, self.mean_std = model, mean_std
        kind = Block if any(isinstance(m, Block) for m in model.modules()) else nn.Conv2d
        self.stages = [m for m in model.modules() if isinstance(m, kind)]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps: list[Tensor] = []
        hooks = [
            stage.register_forward_hook(lambda _, __, out: maps.append(out))
            for stage in self.stages
        ]
        log_probabilities = torch.log_softmax(
            self.model(normalise(pixels[:, None], self.mean_std)), 1
        )
        for hook in hooks:
            hook.remove()
        return log_probabilities, *maps


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy in which the batch norm behind a pooled convolution is part of that convolution. (The exporter
    does so where nothing stands between.) A maximum commutes with a scale that is positive: others stay."""
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


def _graph(model: nn.Module, split: Split) -> onnx.ModelProto:
    shipped = _Shipped(fold_batch_norm(model), split.mean_std).eval()
    noisy = logging.getLogger("torch.onnx")  # tells of packages that nobody needs here
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch about itself
            program = torch.onnx.export(
                shipped,
                (split.val.pixels[:2, 0],),
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                input_names=["pixels"],
                output_names=[
                    "log_probabilities",
                    *(f"maps_{i}" for i in range(1, len(shipped.stages) + 1)),
                ],
            )
    except Exception as error:  # a stranger's network may do what has no ONNX
        raise InputError(
            f"the network does not go to ONNX: {str(error).splitlines()[0]}"
        ) from error
    finally:
        noisy.setLevel(level)
    assert program is not None
    graph = program.model_proto
    for node in graph.graph.node:  # where in the source each came from: half of a small file
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (
        *graph.graph.value_info,
        *graph.graph.input,
        *graph.graph.output,
        *graph.graph.initializer,
    ):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    return graph


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self.batches: Iterator[Tensor] = iter(images.pixels[:CALIBRATION, 0].split(100))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch.numpy()}


def _to_int8(graph: onnx.ModelProto, train: Images) -> onnx.ModelProto:
    """Weights 8 bits a channel, activations 8 bits, by ONNX Runtime's static quantisation."""
    # Unsigned weights: on processors without VNNI, sums of signed ones overflow their 16 bits.
    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (f"{folder}/{name}.onnx" for name in ("before", "ready", "after"))
        onnx.save(graph, before)
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            after,
            _Calibration(train),
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm"],
            weight_type=QuantType.QUInt8,
            activation_type=QuantType.QUInt8,
        )
        return onnx.load(after)


def run_session(
    session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int
) -> np.ndarray:
    """pixels (n, height, width) uint8 -> log-probabilities (n, classes), `batch` images a call."""
    return np.concatenate(
        [
            session.run(["log_probabilities"], {"pixels": pixels[i : i + batch]})[0]
            for i in range(0, len(pixels), batch)
        ]
    )


def _evaluation(log_probabilities: Tensor, labels: Tensor) -> Evaluation:
    log_probabilities = log_probabilities.log_softmax(1)
    return Evaluation(
        float(nn.functional.nll_loss(log_probabilities, labels)), log_probabilities.exp(), labels
    )


def temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The divisor of the log-probabilities at which their loss is least (Guo et al. 2017)."""

    def loss(log_t: float) -> float:
        return _evaluation(log_probabilities / np.exp(log_t), labels).loss

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def sure_from(result: Evaluation) -> float:
    """The least confidence from which on at most 1 in 1,000 of the images is read wrong; 1 if there is none."""
    confidence, order = result.probabilities.amax(1).sort(descending=True)
    wrong = (result.predicted != result.labels)[order].cumsum(0)
    fine = (wrong <= WRONG_WHEN_SURE * torch.arange(1, result.total + 1)).nonzero()[:, 0]
    return float(confidence[fine[-1]]) if len(fine) else 1.0


def export_onnx(
    run: Run, split: Split, int8: bool, on_step: Callable[[str], None] = lambda text: None
) -> Exported:
    """Write RUN/model.onnx or RUN/model-int8.onnx; `on_step` is told what is being done.

    Raises Unfaithful, and writes nothing, unless the file reads every validation image as PyTorch does, at several
    batch sizes (int8: 5 in 10,000 fewer right at most). Raises ValueError for a run that is not finished or a
    network that ONNX can't hold."""
    model, verdict = run.load_model(), run.read_verdict()
    on_step(f"evaluating {len(split.val):,} images with PyTorch")
    expected = evaluate(model, split.val, split.mean_std)
    on_step("exporting the network")
    graph = _graph(model, split)
    if int8:
        on_step("quantising to 8 bits")
        graph = _to_int8(graph, split.train)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = (
        1  # as the reader has it; more wait for each other in small batches
    )
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    pixels, labels = split.val.pixels[:, 0].numpy(), split.val.labels
    difference, found = 0.0, expected
    for batch in BATCHES:
        on_step(f"checking {len(pixels):,} images in batches of {batch:,}")
        log_probabilities = torch.from_numpy(run_session(session, pixels, batch))
        found = _evaluation(log_probabilities, labels)
        difference = max(
            difference, float((found.probabilities - expected.probabilities).abs().max())
        )
        others = int((found.predicted != expected.predicted).sum())
        if not int8 and others:
            raise Unfaithful(
                f"ONNX Runtime reads {others} of {found.total:,} images otherwise than PyTorch, "
                f"in batches of {batch}"
            )
        if expected.accuracy - found.accuracy > MOST_LOST:
            raise Unfaithful(
                f"int8 reads {found.correct:,} of {found.total:,} images right in batches of {batch}, "
                f"float {expected.correct:,}; expected {MOST_LOST * found.total:.0f} fewer at most"
            )
    divisor = float(f"{temperature(log_probabilities, labels):.4g}")  # as it is written
    calibrated = _evaluation(log_probabilities / divisor, labels)
    metadata = {
        "format": "featherweight 1",
        "recipe": run.recipe.name,
        "seed": str(run.seed),
        "contract": run.contract.name,
        "verdict": verdict,
        "parameters": str(audit_model(model, split, run.contract, everything=False).n_params),
        "validation_correct": str(found.correct),
        "validation_total": str(found.total),
        "labels": " ".join(map(str, range(split.num_classes))),
        "commit": run.environment["commit"] or "unknown",
        "temperature": str(divisor),
        "sure_from": f"{sure_from(calibrated):.4f}",
        "calibration_error_before": f"{found.calibration_error:.5f}",
        "calibration_error": f"{calibrated.calibration_error:.5f}",
        "input": "pixels (n, height, width) uint8, light ink on black, as the training images",
        "output": "log_probabilities (n, classes); divide by the temperature and normalise anew for calibrated ones",
    }
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(graph)
    path = run.path / ("model-int8.onnx" if int8 else "model.onnx")
    write_atomic(path, graph.SerializeToString())
    return Exported(path, expected, calibrated, difference, metadata)
