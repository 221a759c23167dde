"""Networks as graphs: what they compute, what a file of them holds, and hostile files."""

import copy
import json
import random
import re

import pytest
import safetensors.torch
import torch
from networks.honest import HONEST
from torch import nn
from torch.nn import functional as F

from featherweight.build import build
from featherweight.capture import Pass, capture
from featherweight.errors import InputError
from featherweight.exported import (
    FORMAT,
    REFUSED,
    Exported,
    Graph,
    Operation,
    find_function,
    load_exported,
    register,
)
from featherweight.recipe import RECIPES, find_recipe

# PyTorch's own warnings: old weight norm and spectral norm, complex numbers.
pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = (Pass(True), Pass(False))
IMAGES = {"images": True}
DTYPES = ("bfloat16", "float16", "float64", "complex64", "complex128", "bool", "int64", "uint8")


def images(n=8, seed=1):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def outcome(network, training, n=8):
    """Output, gradients by name, and buffers after a pass: what must be the same to the bit."""
    network.train(training)
    network.zero_grad()
    torch.manual_seed(0)
    out = network(images(n))
    out.square().sum().backward()
    found = {"output": out.detach()}
    found |= {f"{name}.grad": p.grad for name, p in network.named_parameters()}
    return found | {
        name: b.clone() for name, b in network.named_buffers() if "exported" not in name
    }


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if value is None:
            assert other[name] is None, name
        else:
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name]), name


def recipe_network(name):
    recipe = find_recipe(name)
    torch.manual_seed(0)
    return build(recipe.model, recipe.model_args, 10)


def written(operations, output, **changes):
    """The content of a file with one graph in evaluation mode, which nothing has checked."""
    graph = {
        "training": False,
        "shape": [1, 28, 28],
        "n_images": None,
        "operations": operations,
        "output": output,
    }
    values = {"title": "t", "declared": 0, "faithful": True, "graphs": [graph], "tensors": {}}
    values |= changes
    memory = {"0": torch.arange(64, dtype=torch.uint8)}
    return safetensors.torch.save(memory, {FORMAT: json.dumps(values)})


def tensor(**changes):
    """What a file says about a tensor; by default 16 floats, all of the memory."""
    return {
        "memory": "0",
        "dtype": "float32",
        "shape": [16],
        "stride": [1],
        "offset": 0,
        "parameter": False,
        "gradient": False,
        "saved": True,
    } | changes


def count(*operations):
    graph = Graph(
        False, (1, 28, 28), None, tuple(Operation(*each, {}) for each in operations), IMAGES
    )
    return graph.n_literals()


# --- The same function as the module's ---


@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_a_recipes_network_has_the_same_bits_as_a_graph(name):
    module = recipe_network(name)
    exported = capture(copy.deepcopy(module), BOTH)
    loaded = load_exported(exported.to_bytes())
    for training in (True, False):
        expected = outcome(copy.deepcopy(module), training)
        assert_same_bits(expected, outcome(copy.deepcopy(exported), training))
        assert_same_bits(expected, outcome(copy.deepcopy(loaded), training))
    for name, stored in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], stored)
        assert loaded.state_dict()[name].stride() == stored.stride()


@pytest.mark.parametrize(
    "name",
    [
        *("Lstm", "Gru", "Tied", "TwiceTheLayer", "Autocast", "AssignedNorm", "Checkpoint"),
        *("SpectralNorm", "OldWeightNorm", "WeightNorm", "HandNorm", "RandLike", "Bernoulli"),
        *("Bfloat16", "Float64"),
    ],
)
def test_an_honest_network_has_the_same_bits_as_a_graph(name):
    def made():
        torch.manual_seed(0)
        return HONEST[name].network()

    exported = capture(made(), BOTH)
    # The module of Checkpoint counts images twice in a batch norm, and is trained as a module.
    assert exported.faithful or name == "Checkpoint"
    loaded = load_exported(exported.to_bytes())
    for training in (True, False):
        expected = outcome(made(), training)
        if name == "Checkpoint" and training:
            # The module computes its second part again and counts the images twice.
            network = copy.deepcopy(exported)
            expected |= {
                k: v
                for k, v in outcome(network, True).items()
                if k in dict(network.named_buffers())
            }
        assert_same_bits(expected, outcome(copy.deepcopy(exported), training))
        assert_same_bits(expected, outcome(copy.deepcopy(loaded), training))


class Odd(nn.Module):
    """Tied layers, a view of a weight, a frozen parameter, and tensors of every kind."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(784, 784)
        self.again = self.body
        self.norm = nn.BatchNorm1d(784)
        self.head = nn.Linear(784, 10)
        self.register_buffer("first_rows", self.head.weight.data[:2])
        self.register_buffer("flat", torch.ones(3), persistent=False)
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.frozen = nn.Parameter(torch.full((1,), 0.5), requires_grad=False)
        self.constant = torch.full((10,), 0.25)  # an attribute
        for dtype in DTYPES:
            self.register_buffer(f"of_{dtype}", torch.ones(2, dtype=getattr(torch, dtype)))

    def forward(self, x):
        x = self.norm(self.again(self.body(x.flatten(1))))
        of_all = sum(getattr(self, f"of_{dtype}").sum().to(torch.complex64) for dtype in DTYPES)
        # Read in both modes: two numbers, and a tensor of numbers in the code.
        scale = self.flat.sum() * self.frozen + self.turned.sum() + of_all.real
        return self.head(x) * scale + self.constant + self.first_rows.sum() + torch.tensor([0.125])


def test_a_file_keeps_every_tensor_as_it_is():
    torch.manual_seed(0)
    module = Odd()
    exported = capture(module, BOTH)
    loaded = load_exported(exported.to_bytes())
    assert loaded.title == exported.title == "test_exported.py:Odd"
    assert loaded.declared == exported.declared == sum(p.numel() for p in module.parameters())
    assert loaded.faithful
    assert not load_exported(Exported("t", exported.graphs, 7, faithful=False).to_bytes()).faithful
    assert loaded.again.weight is loaded.body.weight  # a tied parameter is one object
    assert loaded.body.weight.requires_grad
    assert not loaded.frozen.requires_grad
    assert isinstance(loaded.frozen, nn.Parameter)
    for name in ("first_rows", "turned", *(f"of_{dtype}" for dtype in DTYPES)):
        stored, original = loaded.get_buffer(name), module.get_buffer(name)
        assert stored.dtype == original.dtype
        assert stored.stride() == original.stride()
        assert torch.equal(stored, original)
        assert not isinstance(stored, nn.Parameter)
    # Views of one storage stay so.
    with torch.no_grad():
        loaded.head.weight[0, 0] = 12
    assert loaded.first_rows[0, 0] == 12
    # Constants and non-persistent buffers are kept, but are in no weights file.
    assert loaded.state_dict().keys() == module.state_dict().keys() == exported.state_dict().keys()
    constants = [b for name, b in loaded.named_buffers() if name.startswith("exported_constant")]
    assert sorted(b.numel() for b in constants) == [1, 10]
    assert "flat" in dict(loaded.named_buffers())
    assert loaded.graphs == exported.graphs or [g.to_json() for g in loaded.graphs] == [
        g.to_json() for g in exported.graphs
    ]
    for training in (True, False):
        assert_same_bits(
            outcome(copy.deepcopy(module), training),
            outcome(capture(copy.deepcopy(module), BOTH), training),
        )


def test_a_second_file_has_the_same_bytes():
    """Training again compares them."""
    content = capture(recipe_network("feather-8k"), BOTH).to_bytes()
    for _ in range(10):
        assert load_exported(content).to_bytes() == content
    assert capture(recipe_network("feather-8k"), BOTH).to_bytes() == content


def test_a_graph_shares_its_tensors_with_the_module():
    module = recipe_network("feather-8k")
    exported = capture(module, BOTH)
    for name, parameter in module.named_parameters():
        assert exported.get_parameter(name) is parameter


def test_a_copy_has_its_own_tensors_and_the_same_graphs():
    exported = capture(recipe_network("feather-8k"), BOTH)
    other = copy.deepcopy(exported)
    assert all(one is two for one, two in zip(exported.graphs, other.graphs, strict=True))
    before = exported.eval()(images())
    with torch.no_grad():
        for (name, one), two in zip(exported.stored(), dict(other.stored()).values(), strict=True):
            assert one.data_ptr() != two.data_ptr() or not one.numel(), name
            two.zero_()
    assert torch.equal(exported(images()), before)
    assert not torch.equal(other.eval()(images()), before)


def test_images_of_another_shape_or_mode_have_no_graph():
    exported = capture(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), [Pass(False)], "n.py:N")
    with pytest.raises(
        InputError,
        match=r"model n\.py:N: got images \(3, 1, 14, 14\) in evaluation mode, expected "
        r"\('n', 1, 28, 28\)",
    ):
        exported.eval()(torch.zeros(3, 1, 14, 14))
    with pytest.raises(InputError, match=r"in training mode, expected"):
        exported.train()(images())


# --- Numbers in the code ---


def test_factors_summands_and_places_are_numbers():
    assert count(("aten.mul.Tensor", [IMAGES, 0.5]), ("aten.add.Tensor", [{"value": 0}, 2])) == 2
    assert count(("aten.select.int", [IMAGES, 1, 0])) == 1
    assert count(("aten.slice.Tensor", [IMAGES, 2, 3, 25])) == 2
    assert count(("aten.roll.default", [IMAGES, [3, 4], [2, 3]])) == 2
    assert count(("aten.constant_pad_nd.default", [IMAGES, [1, 1, 2, 2], 0.5])) == 5


def test_sizes_strides_flags_and_texts_are_structure():
    assert count(("aten.view.default", [IMAGES, [-1, 784]])) == 0
    assert count(("aten.avg_pool2d.default", [IMAGES, [2, 2], [2, 2]])) == 0
    assert count(("aten.conv2d.default", [IMAGES, IMAGES, None, [2, 2], [1, 1]])) == 0
    assert count(("aten.mean.dim", [IMAGES, [2, 3], True])) == 0
    assert count(("aten.gelu.default", [IMAGES])) == 0


def test_a_chain_that_repeats_a_number_counts_it_once():
    halve = "aten.mul.Tensor"
    chain = [(halve, [IMAGES, 0.5]), *((halve, [{"value": i}, 0.5]) for i in range(9))]
    assert count(*chain) == 1
    assert count(*chain, (halve, [{"value": 9}, 0.25])) == 2
    # Another operation with the number, and the number again after it.
    assert (
        count(*chain, ("aten.add.Tensor", [{"value": 9}, 0.5]), (halve, [{"value": 10}, 0.5])) == 3
    )


def test_every_number_of_what_no_image_takes_part_in_counts():
    assert count(("aten.ones.default", [[3, 4]])) == 2
    assert count(("aten.arange.start_step", [0, 10, 2])) == 3
    assert count(("aten.full.default", [[7], 0.5])) == 2
    assert count(("aten.ones.default", [[7]]), ("aten.sum.dim_IntList", [{"value": 0}, [0]])) == 2


def test_a_complex_number_is_two_numbers():
    assert count(("aten.mul.Tensor", [IMAGES, {"complex": [0.5, 2.0]}])) == 2


def test_the_numbers_of_the_mode_with_more_of_them():
    class Net(nn.Module):
        def forward(self, x):
            x = x.flatten(1)[:, :10] * 0.3
            return x * 0.7 + 0.9 if self.training else x

    exported = capture(Net(), BOTH)
    by_mode = [graph.n_literals() for graph in exported.graphs]
    assert exported.n_literals() == by_mode[0] == by_mode[1] + 2


# --- Files of anybody ---


def test_a_file_of_anything_else_is_refused():
    whole = capture(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), [Pass(False)]).to_bytes()
    others = [
        *(b"", b"x", b"\0" * 100, b"\xff" * 100, whole[:7], whole[:100], whole[:-1], whole[8:]),
        (2**62).to_bytes(8, "little") + b"{}",
        safetensors.torch.save({"weight": torch.zeros(3)}),
        safetensors.torch.save({"weight": torch.zeros(3)}, {"featherweight-graph-0": "{}"}),
        safetensors.torch.save({}, {FORMAT: "[" * 100_000}),
        safetensors.torch.save({}, {FORMAT: "[]"}),
        safetensors.torch.save({}, {"format": FORMAT}),
    ]
    for content in others:
        with pytest.raises(InputError, match=r"^got (a damaged graph|the keys)"):
            load_exported(content)


def test_every_damage_is_an_error_or_a_network_that_can_be_used_safely():
    """One byte, at random: the file may still be one, with another number in it."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False), nn.BatchNorm1d(10))
    content = capture(module, [Pass(False)]).to_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    draw = random.Random(0)
    refused = []
    for _ in range(600):
        damaged = bytearray(content)
        damaged[draw.randrange(header)] = draw.randrange(256)
        try:
            network = load_exported(bytes(damaged))
        except InputError as error:
            refused.append(error.message)
        else:
            assert all(stored.numel() < 10**5 for _, stored in network.stored())
    assert 300 < len(refused) < 600
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize(
    "name",
    [
        *sorted(REFUSED),
        *("os.system", "operator.attrgetter", "operator.methodcaller", "operator.__import__"),
        *("aten.__class__", "aten.__class__.mro", "aten.add.__class__", "aten.nope"),
        *("builtins.eval", "torch.load", "torch.ops.aten.add.Tensor", "prim.device.default"),
        *("mkldnn._convolution_pointwise.default", "quantized.add.default", "eval", "", "."),
        *("aten.add.Tensor.__call__", "aten.mul.Tensor\nimport os"),
    ],
)
def test_an_operation_of_others_is_refused(name):
    with pytest.raises(
        InputError, match=f"got the operation {re.escape(name)}, expected PyTorch's"
    ):
        find_function(name)
    with pytest.raises(InputError, match="got the operation"):
        load_exported(written([[name, [IMAGES], {}]], {"value": 0}))


@pytest.mark.parametrize(
    "name", ["aten.Float.str", "aten.save.default", "aten.list.t", "aten.format.default"]
)
def test_a_function_of_no_tensors_is_refused(name):
    """These are TorchScript's: they read texts and lists, in which numbers hide, or write files."""
    with pytest.raises(InputError, match="got the operation"):
        load_exported(written([[name, ["0.5"], {}]], IMAGES))


@pytest.mark.parametrize(
    "argument",
    [
        *({"value": i} for i in (-1, 1, 2, 10**9, "0", None, 0.0, True, [0])),
        *({"unknown": 1}, {}, {"images": True, "value": 0}, {"complex": [1]}),
        *({"complex": ["1+2j"]}, {"complex": [1, 2, 3]}, {"complex": [{"value": 0}, 1]}),
        *({"dtype": "load"}, {"dtype": "os"}, {"dtype": "strided"}, {"dtype": None}),
        *({"layout": "float32"}, {"memory_format": "float32"}, {"memory_format": "hub"}),
    ],
)
def test_an_argument_that_stands_for_nothing_is_refused(argument):
    """Also what Python would take for the value before, or for the first one."""
    operations = [["aten.relu.default", [IMAGES], {}], ["aten.mul.Tensor", [IMAGES, argument], {}]]
    with pytest.raises(InputError):
        load_exported(written(operations, {"value": 1}))
    with pytest.raises(InputError):
        load_exported(written(operations[:1], argument))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"offset": 1}, "out of bounds"),
        ({"offset": -1}, "invalid storage offset"),
        ({"shape": [17]}, "out of bounds"),
        ({"shape": [4, 4], "stride": [5, 1]}, "out of bounds"),
        ({"shape": [2**40, 2**40], "stride": [1, 1]}, ""),
        ({"shape": [2**62], "stride": [2**62]}, ""),
        ({"shape": [2**70]}, ""),
        ({"shape": [-1]}, ""),
        ({"shape": [4, 4]}, ""),
        ({"stride": [-1]}, ""),
        ({"shape": "16"}, ""),
        ({"dtype": "load"}, ""),
        ({"dtype": "nn"}, ""),
        ({"dtype": "float31"}, ""),
        ({"dtype": "float64"}, "out of bounds"),
        ({"dtype": "int64", "parameter": True, "gradient": True}, ""),
        ({"dtype": "bool", "gradient": True}, ""),
        ({"memory": "1"}, "KeyError"),
        ({"memory": None}, "KeyError"),
        ({"memory": []}, "TypeError"),
    ],
)
def test_a_tensor_outside_of_the_files_memory_is_refused(changes, why):
    whole = load_exported(written([], IMAGES, tensors={"own": tensor()}))
    assert whole.own.numel() == 16
    with pytest.raises(InputError, match=f"got a damaged graph.*({why})"):
        load_exported(written([], IMAGES, tensors={"own": tensor(**changes)}))


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a.", ".a", "forward", "graphs", "__class__", "training", "to_bytes.x"),
        *("_parameters", "_modules.x", "named_buffers", "title.x"),
    ],
)
def test_a_tensor_takes_no_name_of_the_networks_own(name):
    with pytest.raises(InputError, match="got a damaged graph"):
        load_exported(written([], IMAGES, tensors={name: tensor()}))


def test_no_text_of_a_file_is_code(tmp_path, monkeypatch):
    """Texts of every kind of place, which would make a file if they were run."""
    monkeypatch.chdir(tmp_path)
    touch = "__import__('pathlib').Path('run').touch()"
    texts = [
        f"x\nimport pathlib\npathlib.Path('run').touch()\n#{touch}",
        f"x'] + [{touch}] #",
        f'x"] + [{touch}] #',
        f"x={touch} or 1, y",
        f"x=1)\n    {touch}\n    y=dict(z",
        "{" + touch + "}",
    ]
    for text in texts:
        files = [
            written([["aten.relu.default", [IMAGES], {}]], {"value": 0}, title=text),
            written(
                [["aten.add.Tensor", [IMAGES, {"tensor": text}], {}]],
                {"value": 0},
                tensors={text: tensor(shape=[1])},
            ),
            written([["aten.add.Tensor", [IMAGES, 1], {text: 1}]], {"value": 0}),
            written([["aten.div.Tensor_mode", [IMAGES, 1], {"rounding_mode": text}]], {"value": 0}),
            written([["aten.div.Tensor_mode", [IMAGES, 1, text], {}]], {"value": 0}),
            written([["aten.to.dtype", [IMAGES, {"dtype": text}], {}]], {"value": 0}),
            written([[text, [IMAGES], {}]], {"value": 0}),
            written([], {"tensor": text}),
            written([], {text: 1}),
            written([], text),
        ]
        for content in files:
            try:
                network = load_exported(content)
                network.eval()(images(2))
            except (InputError, TypeError, RuntimeError, KeyError):
                pass  # what is not refused may still fail on images
            assert not list(tmp_path.iterdir()), text


@pytest.mark.parametrize("name", ["x\nimport os", "dim ", "1", "class", "self.x", "nope", ""])
def test_an_argument_by_a_name_that_the_operation_lacks_is_refused(name):
    with pytest.raises(InputError):
        load_exported(written([["aten.relu.default", [IMAGES], {name: 1}]], {"value": 0}))
    with pytest.raises(InputError):
        load_exported(written([["operator.add", [1, 1], {name: 1}]], IMAGES))


@pytest.mark.parametrize("depth", [250, 900, 10**5])
def test_a_deeply_nested_file_is_refused(depth):
    content = written([["aten.add.Tensor", [IMAGES, "DEEP"], {}]], {"value": 0})
    deep = b"[" * depth + b"1" + b"]" * depth
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'\\"DEEP\\"', deep)
    with pytest.raises(InputError):
        load_exported(len(header).to_bytes(8, "little") + header + content[8 + length :])


@pytest.mark.parametrize(
    "changes",
    [
        {"graphs": {}},
        {"graphs": [[]]},
        {"graphs": [{"operations": []}]},
        {"graphs": "graphs"},
        {"graphs": None},
        {"tensors": []},
        {"tensors": {"own": None}},
        {"tensors": {"own": {}}},
        {"declared": None},
        {"declared": "many"},
        {"declared": 1e999},
        {"faithful": None, "declared": []},
    ],
)
def test_a_file_with_other_values_is_refused(changes):
    content = written([], IMAGES, **changes)
    if changes == {"graphs": {}}:  # a network without a graph
        with pytest.raises(InputError, match="in evaluation mode"):
            load_exported(content).eval()(images())
        return
    with pytest.raises(InputError, match="got a damaged graph"):
        load_exported(content)


def test_python_functions_of_numbers_count_their_numbers():
    """A weight may be the factor of a number that stands for the number of images."""
    size = ("aten.sym_size.int", [IMAGES, 0])
    scaled = ("operator.mul", [{"value": 0}, 0.77])
    back = ("operator.truediv", [{"value": 1}, {"value": 0}])
    assert count(size, scaled, back, ("aten.mul.Tensor", [IMAGES, {"value": 2}])) >= 1
    assert count(("operator.add", [0.25, 0.5]), ("aten.mul.Tensor", [IMAGES, {"value": 0}])) >= 2


def test_register_keeps_a_tensor_under_its_dotted_name():
    network = nn.Module()
    weight = nn.Parameter(torch.ones(2))
    register(network, "body.0.weight", weight, saved=True)
    register(network, "body.0.scratch", torch.ones(3), saved=False)
    register(network, "body.1.mean", torch.ones(4), saved=True)
    assert network.get_parameter("body.0.weight") is weight
    assert network.state_dict().keys() == {"body.0.weight", "body.1.mean"}
    assert [name for name, _ in network.named_buffers()] == ["body.0.scratch", "body.1.mean"]


def test_gradients_are_off_only_inside_the_part_that_switches_them_off():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(784, 10), nn.Linear(784, 10)

        def forward(self, x):
            x = x.flatten(1)
            with torch.no_grad():
                fixed = self.one(x)
            return self.two(x) + fixed

    exported = capture(Net(), [Pass(True)])
    loaded = load_exported(exported.to_bytes()).train()
    F.cross_entropy(loaded(images()), torch.arange(8)).backward()
    assert loaded.one.weight.grad is None
    assert loaded.two.weight.grad is not None
    assert torch.is_grad_enabled()
