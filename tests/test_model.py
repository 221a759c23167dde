"""The networks: layers, parameters, dense evaluation."""

import pytest
import torch
from torch import nn

from featherweight.augment import affine
from featherweight.build import build, count_parameters
from featherweight.contract import load_contract
from featherweight.errors import InputError
from featherweight.model import BaselineNet, Feather, LayerSpec, parse_layer, view_images
from featherweight.recipe import RECIPES


def test_the_assignments_network_layer_by_layer():
    x, table = torch.zeros(2, 1, 28, 28), []
    for layer in BaselineNet().eval().layers:
        x = layer(x)
        table.append((type(layer).__name__, count_parameters(layer), tuple(x.shape[1:])))
    assert table == [
        ("Conv2d", 160, (16, 26, 26)),
        ("ReLU", 0, (16, 26, 26)),
        ("BatchNorm2d", 32, (16, 26, 26)),
        ("Dropout", 0, (16, 26, 26)),
        ("Conv2d", 4640, (32, 24, 24)),
        ("ReLU", 0, (32, 24, 24)),
        ("BatchNorm2d", 64, (32, 24, 24)),
        ("MaxPool2d", 0, (32, 12, 12)),
        ("Dropout", 0, (32, 12, 12)),
        ("Conv2d", 9248, (32, 10, 10)),
        ("ReLU", 0, (32, 10, 10)),
        ("BatchNorm2d", 64, (32, 10, 10)),
        ("MaxPool2d", 0, (32, 5, 5)),
        ("Dropout", 0, (32, 5, 5)),
        ("Conv2d", 528, (16, 5, 5)),
        ("Flatten", 0, (400,)),
        ("Linear", 4010, (10,)),
        ("LogSoftmax", 0, (10,)),
    ]
    assert sum(row[1] for row in table) == 18_746
    assert [layer.p for layer in BaselineNet().layers if isinstance(layer, nn.Dropout)] == [
        0.01,
        0.01,
        0.0,
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipes_network_is_as_small_as_its_contract_asks(recipe):
    shape = (3, 32, 32) if recipe.name.startswith("cifar") else (1, 28, 28)
    model = build(recipe.model, recipe.model_args, 10, shape)
    assert count_parameters(model) < load_contract(recipe.contract).max_params
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_layer_is_parsed():
    assert parse_layer("sep 24 k5 s2 p1 m3 x4 d6") == LayerSpec("sep", 24, 5, 2, 1, 3, 4, 6)
    assert parse_layer("conv 8") == LayerSpec("conv", 8)
    assert parse_layer("pool") == LayerSpec("pool", pool=2)


def test_layers_mean_what_they_say():
    model = Feather(
        ["conv 6 k5 s2 p2", "conv 6 x3", "pool", "sep 8", "sep 4 k1"],
        dropout=0.1,
        activation="relu",
    )
    shapes = []
    for stage in model.features:
        stage.register_forward_hook(lambda stage, given, x: shapes.append(tuple(x.shape)))
    model(torch.zeros(2, 1, 28, 28))
    assert shapes == [(2, 6, 14, 14), (2, 6, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2), (2, 4, 2, 2)]
    weights = [6 * 25, 6 * 6 * 9, 6 * 9 + 6 * 8, 8 * 1 + 8 * 4, 4 * 10 + 10]
    norms = 2 * (6 + 3 * 6 + 8 + 4)
    assert count_parameters(model) == sum(weights) + norms


@pytest.mark.parametrize("kind", ["conv", "sep"])
def test_a_dilated_layer_reads_every_second_pixel(kind):
    model = Feather([f"{kind} 5 d2 p2"], activation="relu", in_channels=3).eval()
    x = torch.randn(2, 3, 10, 10)
    whole = model.features[0].convolution(x)
    assert whole.shape == (2, 5, 10, 10)
    plain = Feather([f"{kind} 5 p1"], activation="relu", in_channels=3).eval()
    plain.load_state_dict(model.state_dict())
    # On the even rows and columns it is the plain layer there.
    torch.testing.assert_close(
        whole[..., ::2, ::2], plain.features[0].convolution(x[..., ::2, ::2])
    )


def test_networks_take_colour():
    for path, arguments, more in (
        ("featherweight.model:Feather", {"layers": ["conv 4", "sep 6"]}, 2 * 4 * 9),
        ("featherweight.model:BaselineNet", {}, 2 * 16 * 9),
    ):
        grey, colour = (build(path, arguments, 26, (n, 28, 28)) for n in (1, 3))
        assert colour(torch.zeros(2, 3, 28, 28)).shape == (2, 26)
        assert count_parameters(colour) - count_parameters(grey) == more


def test_a_repeated_layer_is_the_same_convolution_each_time():
    model = Feather(["conv 5", "conv 5 p1 x2"], activation="relu").eval()
    x = torch.randn(3, 1, 9, 9)
    once = torch.relu(
        model.features[1].norms[0](model.features[1].convolution(model.features[0](x)))
    )
    twice = torch.relu(model.features[1].norms[1](model.features[1].convolution(once)))
    torch.testing.assert_close(model.features(x), twice)


def test_a_maximum_in_a_layer_comes_before_its_batch_norm():
    model = Feather(["conv 5 m2"], activation="relu").eval()
    norm, x = model.features[0].norms[0], torch.randn(3, 1, 9, 9)
    with torch.no_grad():
        norm.weight.fill_(-1)  # with a falling batch norm the order shows
        expected = torch.relu(
            norm(nn.functional.max_pool2d(model.features[0].convolution[0](x), 2))
        )
        torch.testing.assert_close(model.features(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        "conv",
        "conv x",
        "conv 0",
        "conv 8 k0",
        "conv 8 m0",
        "conv 8 s0",
        "conv 8 d0",
        "conv 8 x0",
        "conv 8 x2",
        "conv 8 q3",
        "max",
        "pool 3",
        "",
        "conv 8  k3",
    ],
)
def test_layers_that_mean_nothing_are_refused(layer):
    with pytest.raises(ValueError, match=f"layer '{layer}'"):
        Feather(["conv 4", layer])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="relu or hardswish"):
        Feather(activation="sine")


def test_a_separable_head_gives_the_mean_of_one_map_a_class():
    model = Feather(["conv 4 m2", "conv 6"], head="sep", num_classes=7).eval()
    plain = Feather(["conv 4 m2", "conv 6"], num_classes=7).eval()
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    depthwise, pointwise = model.head.convolution
    assert (depthwise.weight.shape, pointwise.weight.shape) == ((6, 1, 3, 3), (7, 6, 1, 1))
    # The pointwise convolution and batch norm are linear: they are a linear layer behind the mean.
    features = depthwise(model.features(images)).mean((2, 3))
    logits = model.head.norms[0]((features @ pointwise.weight.flatten(1).T)[..., None, None])
    torch.testing.assert_close(model(images), logits[..., 0, 0])
    linear, batch_norm = count_parameters(plain.head), 2 * 7
    assert count_parameters(model) == count_parameters(plain) - linear + 6 * 9 + 6 * 7 + batch_norm


def test_dropout_stands_before_a_separable_head():
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    for dropout, same in ((0.0, True), (0.5, False)):
        model = Feather(["conv 4 m2", "conv 6"], dropout=dropout, head="sep")
        assert torch.equal(model(images), model(images)) == same


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head 'conv': expected linear or sep"):
        Feather(head="conv")


@pytest.mark.parametrize("size", [(28, 28), (27, 31), (64, 64)])
@pytest.mark.parametrize("dense", [False, True])
def test_feather_takes_other_sides_and_classes(size, dense):
    for mode in (True, False):
        model = Feather(
            ["conv 4 m2", "conv 5", "pool", "conv 6"], dense=dense, num_classes=26
        ).train(mode)
        assert model(torch.zeros(3, 1, *size)).shape == (3, 26)


@pytest.mark.parametrize("head", ["linear", "sep"])
def test_dense_evaluation_is_the_mean_over_shifted_images(head):
    dense, plain = (
        Feather(["conv 4 m2", "conv 5"], dense=dense, dropout=0, head=head).eval()
        for dense in (True, False)
    )
    plain.load_state_dict(dense.state_dict())
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    margin = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    moved = [plain(margin[:, :, i : i + 28, j : j + 28]) for i in (0, 1) for j in (0, 1)]
    torch.testing.assert_close(dense(images), torch.stack(moved).mean(0))
    torch.testing.assert_close(dense.train()(images), plain.train()(images))


def test_dense_over_two_grids_is_the_mean_over_all_their_offsets():
    layers = ["conv 4 m2", "conv 5", "pool"]  # a grid of 4 pixels: the margin is 2
    dense, plain = (Feather(layers, dense=dense, dropout=0).eval() for dense in (True, False))
    plain.load_state_dict(dense.state_dict())
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    margin = nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    moved = [plain(margin[:, :, i : i + 28, j : j + 28]) for i in range(4) for j in range(4)]
    torch.testing.assert_close(dense(images), torch.stack(moved).mean(0))


VIEWS = [[0, 1], [8, 1], [-5, 1.1], [0, 0.9]]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 21, 30)])
def test_views_are_the_mean_over_rotated_and_scaled_images(dense, channels, height, width):
    layers, head = ["conv 4 m2", "conv 5", "conv 5 p1 x2"], "sep" if channels == 3 else "linear"
    looks, plain = (
        Feather(layers, 0, dense=dense, views=views, head=head, in_channels=channels).eval()
        for views in (VIEWS, [])
    )
    plain.load_state_dict(looks.state_dict())  # a view has no parameter of its own
    images = torch.zeros(3, channels, height, width)
    generator = torch.Generator().manual_seed(2)
    images[..., 5:-5, 5:-5] = torch.rand(images[..., 5:-5, 5:-5].shape, generator=generator)
    n, none = len(images), torch.zeros(len(images))
    pairs = [(float(degrees), float(scale)) for degrees, scale in VIEWS]
    seen = [
        affine(
            images, torch.full((n,), degrees), none.expand(2, n).T, torch.full((n,), scale), none
        )
        for degrees, scale in pairs
    ]
    torch.testing.assert_close(seen[0], images)
    torch.testing.assert_close(view_images(images, pairs), torch.cat(seen))
    torch.testing.assert_close(looks(images), torch.stack([plain(each) for each in seen]).mean(0))
    torch.testing.assert_close(looks.train()(images), plain.train()(images), rtol=0, atol=0)


def test_what_is_outside_a_view_repeats_the_border():
    grey = torch.full((1, 1, 9, 9), 3.0)
    torch.testing.assert_close(view_images(grey, [(30.0, 0.5)]), grey)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (5, "views: got 5, expected a list of at most 32 pairs"),
        ([5], "views: got 5, expected"),
        ([[0, 1, 0]], r"views: got \[0, 1, 0\], expected"),
        ([["0", 1]], r"got \['0', 1\]"),
        ([[True, 1]], "got .True, 1"),
        ([[46, 1]], "of -45 to 45 degrees and scales of 0.5 to 2"),
        ([[0, 0.4]], "got .0, 0.4"),
        ([[0, float("nan")]], "got .0, nan"),
        ([[0, 1], [3, 1], [0, 1.0]], "views: got a view twice"),
        ([[i, 1] for i in range(33)], "views: got 33 views, expected a list of at most 32"),
    ],
)
def test_other_views_are_refused(views, message):
    with pytest.raises(InputError, match=message):
        Feather(["conv 4"], views=views)


def test_the_assignments_network_returns_log_probabilities_of_any_classes():
    out = BaselineNet(num_classes=26).eval()(torch.rand(3, 1, 28, 28))
    torch.testing.assert_close(out.exp().sum(1), torch.ones(3))
    assert out.shape == (3, 26)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv 8"] * 3000, "layers: got 3,000, expected at most 200"),
        (["conv 100000000"], "expected no number above 2,048"),
        (["conv 8 k9999"], "expected no number above 2,048"),
        (["conv 8", "conv 8 x9999"], "expected no number above 2,048"),
    ],
)
def test_a_strangers_layers_do_not_fill_the_memory(layers, message):
    with pytest.raises(InputError, match=message):
        Feather(layers)
