"""Export a finished run as one ONNX file that runs without PyTorch.

    exported = export_onnx(run, split, int8=False)      # RUN/model.onnx; int8: RUN/model-int8.onnx
    exported.path, exported.max_difference

The graph's input is `pixels` uint8 for any n, as the training images are: (n, height, width), for
MNIST light ink on black, or (n, 3, height, width) in colour: red, green, blue. The metadata say of
what kind they are, as JSON (`kind`), and where their ink lies (`layout`). Its outputs are
`log_probabilities` (n, classes), and the feature maps of each stage: `maps_1`, `maps_2`, ... A file
in floating point has more outputs, which are stored arrays and cost no time:

- `filters_1`, ...: the filters (channels, inputs, height, width) of each stage. A separable
  convolution has its 1x1 filters there, and its 3x3 ones in `depthwise_1`, ...
- `head`, `bias`: weights (classes, channels) and bias (classes,) of the linear layer, if the
  network's head is the mean of its last maps and that layer

From the last two and the last maps, a reader finds what each place of the image adds to each logit
(`evidence.py`). Which maps these are, and where their places lie, stands in the metadata.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from .._files import write_atomic
from .._format import EXPORT_FORMAT
from ..audit import audit_model
from ..confidence import Rejection, evaluation, find_confidence, validation_images
from ..data import Images, Split
from ..evaluate import Evaluation, evaluate
from ..run import Run
from . import CALIBRATION_IMAGES
from .graph import UnfaithfulError as UnfaithfulError
from .graph import as_input, make_session, to_graph
from .looks import describe_images

CHECKED_BATCHES = (1, 2, 7, 1000)  # batch sizes at which the file is compared with PyTorch
MAX_ACCURACY_LOSS = 0.0005  # fraction of the validation images that int8 may read wrong in addition


@dataclass(frozen=True)
class Exported:
    """An exported file, and its comparison with PyTorch."""

    path: Path
    "The file."
    float_result: Evaluation
    "PyTorch's result on the validation images."
    result: Evaluation
    "The file's result on the validation images, calibrated."
    max_difference: float
    "Largest difference of a probability from PyTorch, over all images and batch sizes."
    metadata: dict[str, str]
    "The model card that is stored in the file."


class _CalibrationReader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of the first training images, in the form that ONNX Runtime asks for."""

    def __init__(self, images: Images) -> None:
        self.batches: Iterator[Tensor] = iter(
            as_input(images.pixels[:CALIBRATION_IMAGES]).split(100)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"pixels": batch.numpy()}


def _to_int8(graph: onnx.ModelProto, train: Images) -> onnx.ModelProto:
    """Quantise weights, with a scale for each channel, and activations to 8 bits.

    This is ONNX Runtime's static quantisation. Weights are unsigned: on processors without VNNI,
    sums of signed products overflow their 16 bits.
    """
    with tempfile.TemporaryDirectory() as folder:
        before, ready, after = (f"{folder}/{name}.onnx" for name in ("before", "ready", "after"))
        onnx.save(graph, before)
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            after,
            _CalibrationReader(train),
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm"],
            weight_type=QuantType.QUInt8,
            activation_type=QuantType.QUInt8,
        )
        return onnx.load(after)


def run_session(
    session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int
) -> np.ndarray:
    """Return log-probabilities (n, classes) of pixels as `as_input` has them, batch by batch."""
    return np.concatenate(
        [
            session.run(["log_probabilities"], {"pixels": pixels[i : i + batch]})[0]
            for i in range(0, len(pixels), batch)
        ]
    )


def _compare(
    graph: onnx.ModelProto,
    split: Split,
    expected: Evaluation,
    *,
    int8: bool,
    on_step: Callable[[str], None] | None,
) -> tuple[Tensor, float]:
    """Compare a graph with PyTorch on every validation image, at several batch sizes.

    Returns:
        The log-probabilities (n, classes) at the last batch size, and the largest difference of a
        probability.

    Raises:
        UnfaithfulError: A prediction differs or, for int8, too many images are read wrong.
    """
    session = make_session(graph)
    pixels, difference = as_input(split.val.pixels).numpy(), 0.0
    for batch in CHECKED_BATCHES:
        if on_step:
            on_step(f"checking {len(pixels):,} images in batches of {batch:,}")
        log_probabilities = torch.from_numpy(run_session(session, pixels, batch))
        found = evaluation(log_probabilities, split.val.labels)
        largest = float((found.probabilities - expected.probabilities).abs().max())
        difference = max(difference, largest)
        others = int((found.predicted != expected.predicted).sum())
        if not int8 and others:
            raise UnfaithfulError(
                f"ONNX Runtime reads {others} of {found.total:,} images differently from PyTorch, "
                f"in batches of {batch}"
            )
        if expected.accuracy - found.accuracy > MAX_ACCURACY_LOSS:
            raise UnfaithfulError(
                f"int8 reads {found.correct:,} of {found.total:,} images right in batches of "
                f"{batch}, floating point {expected.correct:,}; expected at most "
                f"{MAX_ACCURACY_LOSS * found.total:.0f} fewer"
            )
    return log_probabilities, difference


def _rejection(found: Rejection | None) -> dict[str, str]:
    """Return what a reader needs to reject images of no digit, and how well it does so."""
    if found is None:
        return {}
    return {
        "digit_from": f"{found.digit_from:.4f}",
        "auroc": f"{found.auroc:.4f}",
        "no_digit_sure": f"{found.others_sure} of {found.others}",
        "no_digit_unseen_sure": f"{found.unseen_sure} of {found.unseen}",
        "no_digit_rejected": f"{found.others_rejected} of {found.others}",
        "right_rejected": f"{found.right_rejected} of {found.right}",
    }


def export_onnx(
    run: Run, split: Split, int8: bool, on_step: Callable[[str], None] | None = None
) -> Exported:
    """Write RUN/model.onnx or, for int8, RUN/model-int8.onnx.

    The file is written only if it reads every validation image as PyTorch does, at several batch
    sizes. For int8 it may read at most 5 in 10,000 fewer right.

    Args:
        run: A finished run.
        split: The run's data set.
        int8: Whether to quantise weights and activations to 8 bits.
        on_step: Called with a description of each step before it starts.

    Raises:
        UnfaithfulError: The file does not read the validation images as the run does.
        InputError: The run is not finished, or ONNX cannot hold its network.
    """

    def step(text: str) -> None:
        if on_step:
            on_step(text)

    model, verdict = run.load_model(), run.read_verdict()
    step(f"evaluating {len(split.val):,} images with PyTorch")
    expected = evaluate(model, split.val, split.mean_std)
    step("exporting the network")
    graph = to_graph(model, split, evidence=not int8)
    if int8:
        step("quantising to 8 bits")
        graph = _to_int8(graph, split.train)
    log_probabilities, difference = _compare(graph, split, expected, int8=int8, on_step=on_step)
    result = evaluation(log_probabilities, split.val.labels)
    synthetic = None
    if run.recipe.synthetic:
        images = validation_images()
        step(f"reading {len(images):,} synthetic images")
        pixels = as_input(images.pixels).numpy()
        synthetic = torch.from_numpy(run_session(make_session(graph), pixels, max(CHECKED_BATCHES)))
    found = find_confidence(log_probabilities, split.val.labels, synthetic)
    metadata = {
        "format": EXPORT_FORMAT,
        "recipe": run.recipe.name,
        "seed": str(run.seed),
        "contract": run.contract.name,
        "verdict": verdict,
        "parameters": str(audit_model(model, split, run.contract, everything=False).n_params),
        "validation_correct": str(result.correct),
        "validation_total": str(result.total),
        **describe_images(split),
        "commit": run.environment["commit"] or "unknown",
        "temperature": str(found.temperature),
        "sure_from": f"{found.sure_from:.4f}",
        "calibration_error_before": f"{result.calibration_error:.5f}",
        "calibration_error": f"{found.calibrated.calibration_error:.5f}",
        "output": (
            "log_probabilities (n, classes); the softmax of log_probabilities / temperature is "
            "calibrated"
        ),
        **_rejection(found.rejection),
    }
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    metadata = {item.key: item.value for item in graph.metadata_props}  # with the evidence's
    onnx.checker.check_model(graph)
    path = run.export_path("model-int8.onnx" if int8 else "model.onnx")
    write_atomic(path, graph.SerializeToString())
    return Exported(path, expected, found.calibrated, difference, metadata)
