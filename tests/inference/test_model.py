"""Exported files that another program wrote or damaged end in one line, and read no other file."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from featherweight._format import EXPORT_FORMAT
from featherweight.errors import InputError
from featherweight.inference import _model
from featherweight.inference.reader import Reader
from featherweight.pretrained import find_pretrained

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
EXPORTED = find_pretrained("int4-4kb") / "model.onnx"
CARD = {
    "format": EXPORT_FORMAT,
    "recipe": "mine",
    "labels": "0 1 2 3 4 5 6 7 8 9",
    "temperature": "1",
    "sure_from": "0.9",
    "parameters": "7850",
    "validation_correct": "9",
    "validation_total": "10",
}
LOG = ("log_probabilities", FLOAT, ["n", 10])


def refused(path, graph):
    """What is wrong with a file, in one line."""
    path.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    with pytest.raises(InputError) as caught:
        Reader(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_card(**changes):
    """An exported file with other metadata; None leaves an entry out."""
    graph = onnx.load(EXPORTED)
    card = {entry.key: entry.value for entry in graph.metadata_props} | changes
    if "labels" in changes:  # which count in early files alone, that have no kind
        card["kind"] = None
    del graph.metadata_props[:]
    for key, value in card.items():
        if value is not None:
            graph.metadata_props.add(key=key, value=value)
    return graph


def network(nodes, stored=(), inputs=(("pixels", UINT8, ["n", 28, 28]),), outputs=(LOG,), **card):
    """A file whose metadata is fine, with any graph."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(stored).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("elsewhere", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    for key, value in (CARD | card).items():
        model.metadata_props.add(key=key, value=value)
    return model


def linear(weight=0.01, source="pixels", result="log_probabilities"):
    """Nodes and stored arrays of a linear layer."""
    nodes = [
        helper.make_node("Cast", [source], ["floats"], to=FLOAT),
        helper.make_node("Reshape", ["floats", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], [result], axis=1),
    ]
    return nodes, {"weight": np.full((784, 10), weight, np.float32), "flat": np.array([-1, 784])}


def test_a_file_of_another_program_that_keeps_to_the_form_is_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network(*linear()).SerializeToString())
    image = np.full((1, 28, 28), 9, np.uint8)
    np.testing.assert_allclose(Reader(path).probabilities(image), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        (
            "temperature",
            ["0", "-0.0", "-1", "nan", "inf", "1e-300", "1e300", "0x1", "abc", "", None],
            "expected a number from 0.01 to 100",
        ),
        ("sure_from", ["nan", "inf", "-1", "2", "abc", "", None], "expected a number from 0 to 1"),
        (
            "labels",
            ["", "0", "0 0 1 2 3 4 5 6 7 8", " ".join(["x" * 41, *"012345678"]), None],
            "different labels",
        ),
        ("labels", ["0 1 2", " ".join(map(str, range(11)))], "a column for each label"),
        ("labels", ["\x1b[31m 1 2 3 4 5 6 7 8 9", "0\n1", "x" * 20_000], "one printable line"),
        ("recipe", ["a\nb", "\x1b[2J", "\u202eabc"], "one printable line"),
        ("recipe", ["", None], "no recipe"),
        ("parameters", ["abc", "-5", "1.5", "9" * 13, "", None], "expected a whole number"),
        ("validation_total", ["x", None], "expected a whole number"),
        ("evidence_maps", ["nonsense", "pixels", "head", "log_probabilities", ""], "does not fit"),
        (
            "evidence_extent",
            ["nonsense", "1 2 3", "nan nan nan nan", "0 0 1e308 1e308", None],
            "expected 4 numbers",
        ),
        ("evidence_extent", ["20 20 1 1"], "does not fit"),
        ("evidence_field", ["x y", "5", "nan nan", None], "expected 2 numbers"),
        ("evidence_field", ["0 0"], "does not fit"),
        ("evidence_pools", ["0", "-1", "1000000", "x", "2.5"], "expected whole numbers"),
        ("evidence_pools", ["3", None], "does not fit"),
        ("format", ["featherweight 0", None], "another program"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path, key, values, message):
    for value in values:
        assert message in refused(tmp_path / "m.onnx", with_card(**{key: value})), value


def test_damaged_files_are_refused_or_read(tmp_path):
    path, whole = tmp_path / "m.onnx", EXPORTED.read_bytes()
    for content in (b"", b"a text file", whole[:10], whole[: len(whole) // 2], whole[:-5]):
        assert "not an exported file" in refused(path, content)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        try:
            Reader(path).probabilities(np.zeros((1, 28, 28), np.uint8))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("location", ["weights.bin", "/etc/passwd", "../weights.bin", "/dev/zero"])
def test_no_other_file_is_read(tmp_path, monkeypatch, location):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    graph = onnx.load(EXPORTED)
    tensor = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    for file in (folder, tmp_path):  # the right weights, so that only the rule refuses them
        (file / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    assert "not an exported file" in refused(folder / "m.onnx", graph)


@pytest.mark.parametrize("sides", [[2**31, 2**31], [-1, 5], [0]])
def test_weights_of_a_shape_that_they_do_not_have_are_refused(tmp_path, sides):
    graph = onnx.load(EXPORTED)
    tensor = max(graph.graph.initializer, key=lambda each: len(each.raw_data))
    del tensor.dims[:]
    tensor.dims.extend(sides)
    assert "not an exported file" in refused(tmp_path / "m.onnx", graph)


@pytest.mark.parametrize(
    "pixels",
    [
        ("image", UINT8, ["n", 28, 28]),
        ("pixels", FLOAT, ["n", 28, 28]),
        ("pixels", UINT8, ["n", 1, 28, 28]),
        ("pixels", UINT8, ["n", 784]),
        ("pixels", UINT8, ["n", "height", "width"]),
        ("pixels", UINT8, ["n", 200_000, 200_000]),
        ("pixels", UINT8, None),
    ],
)
def test_other_inputs_are_refused(tmp_path, pixels):
    graph = network(*linear(source=pixels[0]), inputs=(pixels,))
    assert "expected one, pixels uint8" in refused(tmp_path / "m.onnx", graph)


def test_a_fixed_number_of_images_or_a_second_input_is_refused(tmp_path):
    fixed = network(*linear(), inputs=(("pixels", UINT8, [7, 28, 28]),))
    assert "cannot run it on 2 images" in refused(tmp_path / "m.onnx", fixed)
    two = network(*linear(), inputs=(("pixels", UINT8, ["n", 28, 28]), ("more", FLOAT, [1])))
    assert "expected one, pixels" in refused(tmp_path / "m.onnx", two)


@pytest.mark.parametrize(
    ("last", "stored"),
    [
        (helper.make_node("Cast", ["y"], ["log_probabilities"], to=TensorProto.INT64), {}),
        (helper.make_node("Cast", ["y"], ["log_probabilities"], to=TensorProto.DOUBLE), {}),
        (helper.make_node("Cast", ["y"], ["log_probabilities"], to=TensorProto.STRING), {}),
        (helper.make_node("Unsqueeze", ["y", "a"], ["log_probabilities"]), {"a": [1]}),
        (helper.make_node("Reshape", ["y", "a"], ["log_probabilities"]), {"a": [-1]}),
        (helper.make_node("ReduceMean", ["y"], ["log_probabilities"], axes=[0]), {}),
        (helper.make_node("Concat", ["y", "y"], ["log_probabilities"], axis=0), {}),
        (helper.make_node("Identity", ["y"], ["other"]), {}),
    ],
)
def test_other_outputs_are_refused(tmp_path, last, stored):
    nodes, weights = linear(result="y")
    output = helper.ValueInfoProto(name=last.output[0])  # of no stated type
    graph = network([*nodes, last], weights | stored, outputs=())
    graph.graph.output.append(output)
    message = refused(tmp_path / "m.onnx", graph)
    assert "log_probabilities" in message or "not an exported file" in message


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_network_that_says_nan_is_refused(tmp_path, weight):
    message = refused(tmp_path / "m.onnx", network(*linear(weight)))
    assert "the largest is nan to nan, expected -2.30 to 0" in message


def test_a_network_that_says_nan_of_some_images_says_so(tmp_path):
    # The square root of a negative sum: of images whose mean is from 1 to 253.
    nodes, stored = linear(0)
    nodes[-1] = helper.make_node("LogSoftmax", ["sum"], ["log_probabilities"], axis=1)
    nodes[3:3] = [
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["mean", "middle"], ["off"]),
        helper.make_node("Abs", ["off"], ["far"]),
        helper.make_node("Sub", ["far", "limit"], ["negative"]),
        helper.make_node("Sqrt", ["negative"], ["root"]),
        helper.make_node("Add", ["logits", "root"], ["sum"]),
    ]
    stored |= {"middle": np.float32(127.5), "limit": np.float32(126)}
    (tmp_path / "m.onnx").write_bytes(network(nodes, stored).SerializeToString())
    reader = Reader(tmp_path / "m.onnx")
    image = np.full((28, 28), 100, np.uint8)
    for read in (lambda: reader.probabilities(image[None]), lambda: reader.read_prepared([image])):
        with pytest.raises(InputError, match="the largest is nan"):
            read()


@pytest.mark.parametrize("domain", ["elsewhere", ""])
def test_foreign_operators_are_refused(tmp_path, domain):
    node = helper.make_node("Evil", ["pixels"], ["log_probabilities"], domain=domain)
    assert "not an exported file" in refused(tmp_path / "m.onnx", network([node]))


@pytest.mark.parametrize("values", [2**33, 2**40])
def test_a_network_may_take_so_much_memory_and_no_more(tmp_path, values):
    nodes, stored = linear(result="y")
    nodes += [
        helper.make_node("ReduceSum", ["y"], ["one"], keepdims=0),
        helper.make_node("Expand", ["one", "many"], ["large"]),
        helper.make_node("ReduceMean", ["large"], ["mean"], axes=[0]),
        helper.make_node("Add", ["y", "mean"], ["log_probabilities"]),
    ]
    graph = network(nodes, stored | {"many": np.array([values])})
    assert "within 4,294,967,296 bytes" in refused(tmp_path / "m.onnx", graph)


def test_a_network_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(_model, "SECONDS", 0.2)
    kinds = {"i": TensorProto.INT64, "c": TensorProto.BOOL}
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["c_out"]),
            helper.make_node("Identity", ["x"], ["x_out"]),
        ],
        "body",
        [
            *(helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()),
            helper.make_tensor_value_info("x", UINT8, None),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", UINT8, None),
        ],
    )
    nodes, stored = linear(source="looped")
    loop = helper.make_node("Loop", ["", "true", "pixels"], ["looped"], body=body)
    graph = network([loop, *nodes], stored | {"true": np.array(True)})
    assert "and 0.2 s" in refused(tmp_path / "m.onnx", graph)


def test_maps_that_are_none_are_refused(tmp_path):
    nodes, stored = linear()
    maps = helper.make_node("Identity", ["logits"], ["maps_1"])
    graph = network([*nodes, maps], stored, outputs=(LOG, ("maps_1", FLOAT, ["n", 10])))
    assert "maps_1: got float32 (2, 10)" in refused(tmp_path / "m.onnx", graph)


def test_a_file_that_does_not_end_is_refused(monkeypatch):
    monkeypatch.setattr(_model, "MAX_FILE_BYTES", 2**20)
    with pytest.raises(InputError, match="got over 1,048,576 bytes"):
        Reader("/dev/zero")
