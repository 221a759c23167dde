"""ONNX files against PyTorch: predictions, feature maps, batch norm, int8, and what is refused."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from featherweight.build import build
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.evaluate import normalise
from featherweight.export import onnx as export
from featherweight.export.c import export_c
from featherweight.export.graph import fold_batch_norm, to_graph
from featherweight.export.hub import export_hub
from featherweight.export.onnx import UnfaithfulError, export_onnx
from featherweight.inference.reader import Reader
from featherweight.model import Feather, Pool
from featherweight.run import create_run, open_run
from featherweight.train import train
from featherweight.verdict import Clause, Verdict

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
LAYERS = ["conv 8 k5 m2", "sep 8 m2", "conv 8", "conv 8 p1 x2"]


def verdict(**clauses):
    """Return the JSON values of a verdict with clauses that passed or failed."""
    found = tuple(Clause(name, "", "", "", passed) for name, passed in clauses.items())
    return Verdict("tiny", found, None).to_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """Return a run with every kind of layer, trained on made digits, and its data."""
    split = load_split(str(digits), 500, 100)
    recipe = dataclasses.replace(tiny_recipe, model_args={"layers": LAYERS, "dense": True})
    run = create_run(
        str(tmp_path_factory.mktemp("export") / "run"), recipe, tiny_contract, split, 0, CPU, ""
    )
    train(run, split, CPU)
    return run, split


@pytest.fixture(scope="module")
def exported(finished):
    finished[0].write_json("verdict.json", verdict(parameters=True, accuracy=False, log=False))
    return export_onnx(*finished, int8=False)


def test_the_file_alone_gives_what_pytorch_gives_at_any_batch(finished, exported, tmp_path):
    run, split = finished
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(exported.path.read_bytes())
    session = onnxruntime.InferenceSession(str(alone))
    model = run.load_model()
    for n in (1, 3, 100):
        pixels = split.val.pixels[:n]
        found = session.run(["log_probabilities"], {"pixels": pixels[:, 0].numpy()})[0]
        with torch.no_grad():
            expected = model(normalise(pixels, split.mean_std)).log_softmax(1)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    assert exported.max_difference < 1e-5
    assert exported.result.correct == exported.float_result.correct


def test_the_maps_are_those_of_the_stages(finished, exported):
    run, split = finished
    session = onnxruntime.InferenceSession(str(exported.path))
    names = [f"maps_{i}" for i in range(1, 5)]
    found = session.run(names, {"pixels": split.val.pixels[:2, 0].numpy()})
    model, x = (
        run.load_model(),
        torch.nn.functional.pad(
            normalise(split.val.pixels[:2], split.mean_std), (2, 2, 2, 2), mode="replicate"
        ),
    )
    for stage, maps in zip(model.features, found, strict=True):
        x = stage(x)
        torch.testing.assert_close(torch.from_numpy(maps), x.detach(), rtol=1e-3, atol=1e-3)


def test_the_filters_are_those_that_made_the_maps(finished, exported):
    _, split = finished
    session = onnxruntime.InferenceSession(str(exported.path))
    names = ["maps_1", "maps_2", "maps_3", "filters_3", "filters_2", "depthwise_2"]
    one, two, three, third, pointwise, depthwise = map(
        torch.from_numpy, session.run(names, {"pixels": split.val.pixels[:1, 0].numpy()})
    )
    # A constant for each channel is left: the bias.
    found = torch.nn.functional.conv2d(two, third)
    assert largest_beyond_bias(three, found) < 1e-4
    # A separable convolution is one with the products of its two filters.
    found = torch.nn.functional.conv2d(one, pointwise * depthwise.swapaxes(0, 1))
    pooled = Pool(2, dense=True).eval()(found)
    assert largest_beyond_bias(two, pooled) < 1e-4


def largest_beyond_bias(maps, sums):
    """Return by how much maps differ from hardswish(sums + bias), with the best bias.

    Where an activation is above 3, hardswish changes nothing."""
    worst = 0.0
    for channel in range(maps.shape[1]):
        linear = maps[:, channel] > 3
        if linear.any():
            bias = (maps[:, channel] - sums[:, channel])[linear]
            worst = max(worst, float(bias.max() - bias.min()))
    assert worst > 0
    return worst


def test_the_outputs_that_explain_cost_no_time_and_little_space(finished, exported):
    """They are stored arrays: no node computes them, and nothing is stored twice."""
    graph = onnx.load(exported.path).graph
    made = {name for node in graph.node for name in node.output}
    named = {tensor.name for tensor in graph.initializer}
    explaining = {
        output.name for output in graph.output if not output.name.startswith(("maps_", "log_"))
    }
    assert explaining == {
        *("filters_1", "filters_2", "depthwise_2", "filters_3", "filters_4", "head", "bias")
    }
    assert explaining <= named
    assert not explaining & made
    run, split = finished
    plain = to_graph(run.load_model(), split, evidence=False)
    assert sum(map(onnx.TensorProto.ByteSize, graph.initializer)) <= sum(
        map(onnx.TensorProto.ByteSize, plain.graph.initializer)
    )


def test_batch_norm_is_folded_where_it_can_be(exported):
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    # The last layer goes through the same weights twice with a batch norm each time.
    assert kinds.count("BatchNormalization") <= 2
    assert kinds.count("Conv") == 6


@pytest.mark.parametrize("sign", [1, -1])
def test_folding_behind_a_maximum_changes_nothing(sign):
    model = build("featherweight.model:Feather", {"layers": ["conv 4 m2", "sep 4 m2"]}, 10)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
        norms[0].weight[0] *= sign
    images = torch.randn(3, 1, 28, 28)
    folded = fold_batch_norm(model.eval())
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-4)
    left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert left == (0 if sign > 0 else 1)  # a falling batch norm turns the maximum into a minimum


def card(path):
    """Return the metadata of a file."""
    return {item.key: item.value for item in onnx.load(path).metadata_props}


def stored(path):
    """Return the arrays that a file stores."""
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


def test_eight_bits_are_smaller_and_read_as_well(finished, exported):
    _, split = finished
    eight = export_onnx(*finished, int8=True)
    assert eight.path.name == "model-int8.onnx"
    # Each filter and the head: a byte for each weight instead of four. The file as a whole also
    # holds a node for each quantisation, which outweighs that in a network as tiny as this one.
    small, large = stored(eight.path), stored(exported.path)
    assert "evidence_maps" not in card(eight.path)
    shapes = [(8, 1, 5, 5), (8, 1, 3, 3), (8, 8, 1, 1), (8, 8, 3, 3), (8, 8, 3, 3)]
    for shape in shapes:
        assert shape in {array.shape for array in small if array.dtype == np.uint8}
        assert shape not in {array.shape for array in small if array.dtype == np.float32}
        assert shape in {array.shape for array in large if array.dtype == np.float32}
    assert sum(array.nbytes for array in small) < 0.6 * sum(array.nbytes for array in large)
    pixels, labels = split.val.pixels[:, 0].numpy(), split.val.labels.numpy()
    session = onnxruntime.InferenceSession(str(eight.path))
    scores = session.run(["log_probabilities"], {"pixels": pixels})[0]
    correct = int((scores.argmax(1) == labels).sum())
    assert eight.result.correct == correct
    assert exported.result.correct - correct <= export.MAX_ACCURACY_LOSS * len(labels)


def test_the_assignments_network_is_exported_too(tmp_path, split, tiny_recipe, tiny_contract):
    recipe = dataclasses.replace(
        tiny_recipe, model="featherweight.model:BaselineNet", model_args={}, epochs=1, lr=0.02
    )
    run = create_run(str(tmp_path / "run"), recipe, tiny_contract, split, 0, CPU, "")
    train(run, split, CPU)
    exported = export_onnx(run, split, int8=False)
    session = onnxruntime.InferenceSession(str(exported.path))
    assert [out.name for out in session.get_outputs()] == [
        "log_probabilities",
        *(f"maps_{i}" for i in range(1, 5)),
        *(f"filters_{i}" for i in range(1, 5)),
    ]
    assert "evidence_maps" not in card(exported.path)  # its head is no mean over places


def test_a_file_that_reads_otherwise_is_not_written(finished, monkeypatch, tmp_path):
    run, split = finished
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    copy = open_run(tmp_path / "run")
    before = {path.name for path in copy.path.iterdir()}
    honest = export.run_session
    monkeypatch.setattr(export, "run_session", lambda *given: np.roll(honest(*given), 1, 1))
    for int8 in (False, True):
        with pytest.raises(UnfaithfulError, match="in batches of 1"):
            export_onnx(copy, split, int8)
        assert {path.name for path in copy.path.iterdir()} == before


class OfTensors(torch.nn.Module):
    """A network whose forward pass is a function of its one layer and the images."""

    def __init__(self, function, layer=None):
        super().__init__()
        self.function, self.layer = function, layer or torch.nn.Flatten()

    def forward(self, x):
        return self.function(self.layer, x)


REFUSED = {
    "branch": (
        lambda layer, x: layer(x)[:, :10] * (2 if x.sum() > 0 else 1),
        r"at line .*2 if x.sum\(\) > 0 else 1.*: it needs the values .*hint: write torch.where",
    ),
    "int": (lambda layer, x: layer(x)[:, :10].reshape(int(x.shape[0]), 10), "a constant of their"),
    "loop": (
        lambda layer, x: torch.cat([layer(x[i, None])[:, :10] for i in range(len(x))]),
        "hint: .*no loop over images",
    ),
    "numpy": (
        lambda layer, x: torch.from_numpy(layer(x).numpy()[:, :10]),
        "hint: .*instead of NumPy's",
    ),
    "scripted": (lambda layer, x: layer(x).flatten(1)[:, :10], "module layer is TorchScript"),
    "traced": (
        lambda layer, x: layer(x).flatten(1)[:, :10],
        "module layer is TorchScript .*hint: leave out",
    ),
    "no operator": (
        lambda layer, x: torch.linalg.qr(layer(x)[:, :10])[1].sum(0).expand(len(x), 10),
        "cannot be exported to ONNX",
    ),
    "double": (
        lambda layer, x: layer(x.double()).flatten(1)[:, :10],
        "ONNX Runtime can't run .*hint: .*32-bit",
    ),
}


@pytest.mark.filterwarnings("ignore")  # that TorchScript is old, and the exporter's of itself
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_onnx_is_one_line_with_its_cause(finished, monkeypatch, name):
    run, split = finished
    function, message = REFUSED[name]
    layer = None
    if name == "traced":
        layer = torch.jit.trace(torch.nn.Conv2d(1, 1, 3), torch.zeros(2, 1, 28, 28))
    if name == "scripted":
        layer = torch.jit.script(torch.nn.Conv2d(1, 1, 3))
    if name == "double":
        layer = torch.nn.Conv2d(1, 1, 3).double()
    network = OfTensors(function, layer)
    monkeypatch.setattr(type(run), "load_model", lambda self: network.eval())
    with pytest.raises(InputError, match=message) as caught:
        export_onnx(run, split, int8=False)
    assert caught.value.message.isprintable()


def test_parts_in_double_precision_give_outputs_that_readers_take(finished, monkeypatch, tmp_path):
    run, split = finished
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    network = OfTensors(lambda layer, x: layer(x.flatten(1).double()), torch.nn.Linear(784, 10))
    monkeypatch.setattr(type(run), "load_model", lambda self: network.double().eval())
    exported = export_onnx(open_run(tmp_path / "run"), split, int8=False)
    session = onnxruntime.InferenceSession(str(exported.path))
    assert [out.type for out in session.get_outputs()] == ["tensor(float)"]


def test_the_file_tells_what_it_is(finished, exported):
    told = card(exported.path)
    assert told["recipe"] == "tiny"
    assert told["labels"] == "0 1 2 3 4 5 6 7 8 9"
    assert int(told["validation_correct"]) == exported.result.correct
    assert float(told["temperature"]) > 0
    assert told["verdict"] == "FAIL (accuracy, log)"
    assert int(told["parameters"]) == sum(p.numel() for p in finished[0].load_model().parameters())


def test_what_the_last_audit_found_is_told(finished, tmp_path):
    shutil.copytree(
        finished[0].path, tmp_path / "run", ignore=shutil.ignore_patterns("verdict.json")
    )
    run = open_run(tmp_path / "run")
    assert run.read_verdict() == "not judged"
    run.write_json("verdict.json", verdict(log=True))
    assert run.read_verdict() == "PASS"
    for damaged in ("{", "[]", "{}"):
        (run.path / "verdict.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"verdict\.json: damaged: .*featherweight report"):
            run.read_verdict()


def test_every_step_is_told_before_it_is_taken(finished):
    told = []
    export_onnx(*finished, int8=True, on_step=told.append)
    assert told == [
        "evaluating 100 images with PyTorch",
        "exporting the network",
        "quantising to 8 bits",
        *(f"checking 100 images in batches of {batch}" for batch in ("1", "2", "7", "1,000")),
    ]


def test_views_are_exported_without_evidence(finished, tmp_path, monkeypatch):
    _, split = finished
    shutil.copytree(finished[0].path, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    run = open_run(tmp_path / "run")
    plain, views = run.load_model(), [[0, 1], [6, 1], [-6, 1.05]]
    network = Feather(LAYERS, dense=True, views=views)
    network.load_state_dict(plain.state_dict())
    monkeypatch.setattr(type(run), "load_model", lambda self: network.eval())
    exported = export_onnx(run, split, int8=False)
    assert exported.max_difference < 1e-5  # of every image, in batches of several sizes
    assert int(exported.metadata["parameters"]) == sum(p.numel() for p in plain.parameters())
    nodes = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert nodes.count("GridSample") == 1
    reader = Reader(exported.path)
    reading = reader.read(split.val.pixels[0, 0].numpy())
    assert reading.evidence is None
    # The maps that are shown are those of the first view.
    x = normalise(torch.from_numpy(reading.seen)[None, None], split.mean_std)
    x = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    for stage, maps in zip(plain.features, reader.maps(reading.seen), strict=True):
        x = stage(x)
        torch.testing.assert_close(torch.from_numpy(maps), x[0].detach(), rtol=1e-3, atol=1e-3)


def test_views_are_quantised_with_eight_bits(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0].path, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    run, split = open_run(tmp_path / "run"), finished[1]
    network = Feather(LAYERS, views=[[0, 1], [6, 1.05]])
    network.load_state_dict(run.load_model().state_dict())
    monkeypatch.setattr(type(run), "load_model", lambda self: network.eval())
    eight = export_onnx(run, split, int8=True)
    assert abs(eight.result.correct - eight.float_result.correct) <= 2


def coloured(split, **said):
    """Images of a split in colour, 32x32: the channels are enough to tell them apart."""
    from featherweight.data import Images, Said, Split

    def part(images):
        grey = torch.nn.functional.pad(images.pixels, (2, 2, 2, 2))
        return Images(torch.cat([grey, grey.flip(2), 255 - grey], 1), images.labels)

    return Split("colour.npz", part(split.train), part(split.val), 10, Said(**said))


NAMES = ("a cat", *"bcdefgh", "two words", "x" * 100)


@pytest.fixture(scope="module")
def in_colour(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """Return a run on colour images whose classes have names, and its data."""
    split = coloured(load_split(str(digits), 500, 100), classes=NAMES)
    recipe = dataclasses.replace(tiny_recipe, epochs=1)
    folder = tmp_path_factory.mktemp("colour") / "run"
    run = create_run(str(folder), recipe, tiny_contract, split, 0, CPU, "")
    train(run, split, CPU)
    return run, split


def test_colour_images_are_exported_with_their_kind(in_colour):
    run, split = in_colour
    exported = export_onnx(run, split, int8=False)
    reader = Reader(exported.path)
    assert reader.form.kind == split.kind
    assert reader.labels == list(NAMES)
    assert reader.shape == (3, 32, 32)
    assert exported.metadata["labels"] == "0 1 2 3 4 5 6 7 8 9"  # names with spaces are no words
    assert "layout" not in exported.metadata
    pixels = split.val.pixels.numpy()
    expected = reader.probabilities(pixels)
    for image, row in zip(pixels[:10], expected, strict=False):
        reading = reader.read(np.ascontiguousarray(image.transpose(1, 2, 0)))
        np.testing.assert_allclose(reading.probabilities, row, atol=1e-6)
        assert reading.evidence.values.sum() == pytest.approx(reading.evidence.difference, abs=1e-3)
        assert [len(stage.maps) for stage in reader.stages(reading.seen)] == [8, 8]


def test_colour_images_are_quantised_and_put_on_a_hub_but_not_into_c(
    in_colour, tmp_path, monkeypatch
):
    run, split = in_colour
    monkeypatch.setattr(export, "MAX_ACCURACY_LOSS", 1.0)  # a network of one epoch
    eight = export_onnx(run, split, int8=True)
    assert Reader(eight.path).shape == (3, 32, 32)
    with pytest.raises(InputError, match="3 channels, expected grey ones"):
        export_c(run, split, bits=8)
    hub = export_hub(run, split, tmp_path / "hub").path
    assert json.loads((hub / "config.json").read_text())["labels"] == list(NAMES)
    image = split.val.pixels[0].numpy()
    Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "p.png")
    done = subprocess.run(
        [sys.executable, hub / "use.py", tmp_path / "p.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    (odds,) = Reader(hub).probabilities(image[None])
    assert done.stdout == f"{NAMES[odds.argmax()]}, {odds.max():.1%} sure\n"
