"""The model card of a run: Markdown with the YAML header that model hubs read.

Example:
    text = card(run, result, split, verdict.to_dict())
"""

import json
from pathlib import Path
from typing import Any

import torch

from ._html import markdown_text as _text
from ._markdown import clause_table
from ._markdown import code as _code
from .confidence import find_confidence, validation_images
from .data import Split
from .evaluate import EVAL_BATCH_SIZE, Evaluation, log_probabilities, percent
from .image_kind import ImageKind
from .recipe import RECIPES
from .run import GRAPH, SOURCE, Run
from .verdict import Verdict

# Files of the run folder that the card lists if they exist.
FILES = {
    "model.safetensors": "weights for PyTorch",
    "model.onnx": "ONNX, 32-bit floats",
    "model-int8.onnx": "ONNX, 8-bit integers",
    GRAPH: "the network as graphs, without code",
    SOURCE: "the network's source",
    "use.py": "reads a picture with ONNX Runtime",
}
# Pictures of the run folder that the card shows if they exist.
PICTURES = {
    "verdict.svg": "verdict",
    "curves.png": "loss and mistakes over epochs",
    "confusion.png": "confusion matrix",
    "mistakes.png": "every mistake",
}
LEAST = 1e-30  # probability whose logarithm stands for that of a smaller one
MAX_NAMES = 26  # classes that a card names


def _header(
    run: Run, result: Evaluation, split: Split, data: str, test: tuple[int, int] | None
) -> str:
    """Return the YAML header that Hugging Face's hub reads; JSON strings are valid YAML."""
    embedded = split.source is None
    dataset = "ylecun/mnist" if embedded else data
    # The hub refuses the names of data sets that it does not have.
    known = f"datasets: {json.dumps([dataset])}\n" if embedded else ""
    tags = ["featherweight", "image-classification", *(["mnist"] if embedded else []), "onnx"]
    # Only the author of a network can say its licence.
    licence = "other\nlicense_name: unstated" if run.has_own_code else "apache-2.0"
    name = f"accuracy on {_validation_images(split)}, last epoch's weights"
    kind = {"type": dataset, "name": data}
    tested = ""
    if test is not None:
        value = {
            "type": "accuracy",
            "value": float(f"{test[0] / test[1]:.6g}"),
            "name": f"accuracy on the {test[1]:,} test images, which decided nothing",
        }
        tested = f"""  - task: {{"type": "image-classification"}}
    dataset: {json.dumps(kind | {"split": "test"})}
    metrics:
    - {json.dumps(value)}
"""
    return f"""---
license: {licence}
library_name: featherweight
pipeline_tag: image-classification
tags: {json.dumps(tags)}
{known}metrics: ["accuracy"]
model-index:
- name: {json.dumps(run.recipe.name)}
  results:
  - task: {{"type": "image-classification"}}
    dataset: {json.dumps(kind | {"split": "validation"})}
    metrics:
    - {{"type": "accuracy", "value": {result.accuracy:.6g}, "name": {json.dumps(name)}}}
{tested}---
"""


def _validation_images(split: Split) -> str:
    """Return which images validate."""
    return f"{split.validating.format(n=f'{len(split.val):,}')} (validation)"


def _looks(kind: ImageKind) -> str:
    """Return how a picture must look, such as `light on black`."""
    looks = {"light on dark": "light on black", "dark on light": "dark on white"}
    looks["natural"] = "grey" if kind.channels == 1 else "in colour"
    transposed = ", rows and columns exchanged," if kind.orientation == "transposed" else ""
    return f"{looks[kind.polarity]}{transposed}"


def _rejects(run: Run, result: Evaluation, split: Split) -> str:
    """Return how well a network that was trained on synthetic images tells what is no digit."""
    model, images = run.load_model(), validation_images()
    scores = [
        log_probabilities(model, batch, split.mean_std)
        for batch in images.pixels.split(EVAL_BATCH_SIZE)
    ]
    found = find_confidence(
        result.probabilities.clamp(min=LEAST).log(), result.labels, torch.cat(scores)
    )
    told = found.rejection
    assert told is not None
    rejected, sure = (
        _share(n, told.others, "images of no digit")
        for n in (told.others_rejected, told.others_sure)
    )
    unseen = _share(told.unseen_sure, told.unseen, "kinds that training never draws")
    return f"""
Synthetic images, of other seeds, fonts and kinds than those of the training and of the choice of
thresholds:
**{percent(told.digits_right, told.digits)}** of the digits.
AUROC of the confidence, digits against images of no digit: **{told.auroc:.4f}**.
Below a confidence of {told.digit_from:.4f} an image is no digit: so are {rejected},
and {_share(told.right_rejected, told.right, "MNIST digits that would be read right")}.
Read as a digit, and sure, are {sure}, and {unseen}.

"""


def _share(n: int, total: int, what: str) -> str:
    """Return a share, such as `95.26 % of the images (1,923 of 2,019)`."""
    return f"{100 * n / total:.2f} % of the {what} ({n:,} of {total:,})"


def _count(n: int, word: str) -> str:
    """Return a count with its noun, such as `1 epoch` or `19 epochs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _place(place: dict[str, Any]) -> str:
    """Return where a run was trained, of `Run.places`: processor or GPU, and versions."""
    processor = f"{_text(place['cpu'])}, {_count(place['threads'], 'thread')}"
    commit = f", commit {_text(place['commit'])}" if place["commit"] else ""
    return (
        f"{_text(place['gpu']) if place['gpu'] else processor};\n  torch {_text(place['torch'])}, "
        f"featherweight {_text(place['featherweight'])}{commit}"
    )


def _use(run: Run, split: Split, needed: str) -> str:
    """Return how to use the files of the run folder; one for a hub has a script of its own."""
    moved = "" if split.source is None else " --data DATA"
    # Its audit needs the training state.
    audit = "\n\n`featherweight audit .` checks the contract again." if run.has_state else ""
    if not (run.path / "use.py").is_file():
        return f"""In this folder, with `featherweight` installed{needed}:

```sh
featherweight evaluate .                      # measure the validation accuracy again
featherweight export . --format onnx          # write model.onnx, which needs no PyTorch
featherweight predict photo.jpg --model .     # read a picture with model.onnx
```{audit}"""
    (channels, height, width), (mean, std) = split.shape, split.mean_std
    images = f"(n, {channels}, {height}, {width})"
    source = ""
    if run.needs_code:
        source = f"""
The network is defined in `{SOURCE}`, which PyTorch needs and ONNX Runtime does not. It is code:
read it before you run it. `from_pretrained` runs it only with `trust_code=True`.
"""
    looks = _looks(split.kind)
    return f"""Without `featherweight`, a picture of {width}x{height} pixels, {looks} as the
training images are:

```sh
pip install onnxruntime numpy pillow
python use.py picture.png
```

With `featherweight` installed, any picture, such as a photograph, and the network for PyTorch:

```python
import featherweight as fw

fw.Reader(".").read("photo.jpg")
model = fw.from_pretrained("."{", trust_code=True" if run.needs_code else ""})
# It takes images {images} in [0, 1], less {mean:.4f}, divided by {std:.4f}.
```
{source}
`featherweight evaluate .{moved}` measures the validation accuracy again. `config.json` has the
labels, the normalisation, the network and every hyper-parameter of its training."""


def card(
    run: Run,
    result: Evaluation,
    split: Split,
    verdict: dict[str, Any],
    test: tuple[int, int] | None = None,
    chosen: str = "",
) -> str:
    """Return the text of a model card, of a run folder or a hub's.

    It says what the network is, its measured accuracy, how to use it, how it was trained, and its
    limits.

    Args:
        run: The finished run.
        result: Its evaluation on `split.val`.
        split: Its images.
        verdict: Its verdict, as `Verdict.to_dict` returns it.
        test: Test images that it reads right, and all of them, if they were read.
        chosen: How the run was chosen among others, if it was.
    """
    rows, recipe = run.read_metrics(), run.recipe
    seconds = sum(row["seconds"] for row in rows)
    embedded = split.source is None
    low, high = result.interval
    judged = Verdict.from_dict(verdict)
    points = f", {judged.points_text}" if judged.weighted else ""
    sizes = "\n".join(
        f"| {name} | {(run.path / name).stat().st_size:,} | {what} |"
        for name, what in FILES.items()
        if (run.path / name).is_file()
    )
    (channels, height, width), classes = split.shape, split.kind.classes
    colour = "grey" if channels == 1 else "colour"
    named = ", handwritten digits" if embedded else ""
    if classes != tuple(map(str, range(len(classes)))):
        named = f": {', '.join(map(_text, classes[:MAX_NAMES]))}"
        named += ", ..." if len(classes) > MAX_NAMES else ""
    data = "MNIST" if split.source is None else Path(split.source).name
    begun, *later = run.places
    places = f"{seconds:.0f} s{' in all,' if later else ''} on {_place(begun)}" + "".join(
        f";\n  from epoch {place['epoch'] + 1} on {_place(place)}" for place in later
    )
    replaced = any(
        preset.name == recipe.name and preset.model != recipe.model for preset in RECIPES
    )
    network = f"{_code(recipe.model)} {_text(json.dumps(recipe.model_args))}" + (
        ", in place of the recipe's network" if replaced else ""
    )
    # Picture preparation and the stress set are for digits.
    preparing = stress = ""
    if embedded:
        preparing = (
            "; `featherweight predict` and `serve`\n  prepare pictures of digits in this way"
        )
        stress = (
            "; `featherweight stress .` measures it\n  on digits that were drawn, printed and "
            "photographed in other ways"
        )
    added = synthetic = rejects = ""
    limit = (
        f"- The network predicts one of its {split.num_classes} classes for any image, even if it "
        "shows\n  none of them."
    )
    if recipe.synthetic:
        added = " and synthetic images"
        synthetic = (
            f"- synthetic images: {recipe.n_synthetic(len(split.train)):,} in each epoch beside "
            "them, drawn from a seed: digits in\n  other styles, and what is no digit, for which "
            "each class was to be equally probable\n"
        )
        rejects = _rejects(run, result, split)
        limit = (
            "- A letter may look like a digit, as O, l and S do: none of these was used to train "
            "or to measure\n  the rejection."
        )
    taught = ""
    if recipe.teacher:
        teacher = _text(run.environment.get("teacher", recipe.teacher))
        taught = (
            f"- teacher: {teacher}, trained on the same images;\n"
            f"  its probabilities were learned instead of labels, at temperature "
            f"{recipe.temperature:g}\n"
        )
    tested = ""
    if test is not None:
        tested = f"Test, stated and not chosen by: **{percent(*test)}**.\n"
    if chosen:
        tested += f"Seed {run.seed} is the {chosen}.\n"
    pictures = {
        name: f"![{what}]({name})\n" if (run.path / name).is_file() else ""
        for name, what in PICTURES.items()
    }
    module = recipe.model.partition(":")[0]
    carried = not run.needs_code or (run.path / module).is_file()
    needed = "" if carried else f" and {_code(module)} on Python's path"
    licence = (
        "The author of the network has stated none: do so here, and as `license` in the header."
        if run.has_own_code
        else "Apache-2.0."
    )
    licence += (
        " The training images are MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0."
        if embedded
        else " The training images have their own licence."
    )
    table = judged.layers
    layers = (
        table.to_markdown()
        if table is not None
        else "Not known: the network was watched while it ran, and only a graph has a layer table."
    )
    looks = ""
    if table is not None and table.views > 1:
        looks = (
            f"\nIt looks at each image {table.views} times and averages, with {table.macs:,} "
            "multiply-accumulates in all."
        )
    n_params = verdict.get("n_params")
    size = f" with {_count(n_params, 'parameter')}" if n_params else ""
    return f"""{_header(run, result, split, data, test)}
# {_text(recipe.name)}, seed {run.seed}

A network{size} that sorts {colour} images of {width}x{height} pixels into
{split.num_classes} classes{named}.{looks}
Featherweight trained it on {_text(data)}{added} and checked it against the contract below.

Contract {_code(verdict["contract"])}: **{"PASS" if verdict["passed"] else "FAIL"}**{points}.
Evidence: {_text(judged.basis)}.
Validation: **{percent(result.correct, result.total)}**,
95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson),
expected calibration error {100 * result.calibration_error:.2f} %;
measured on {_validation_images(split)}, with the last epoch's weights.
{rejects}{tested}
{clause_table(judged)}
{pictures["verdict.svg"]}
## Use
{_use(run, split, needed)}

| file | bytes | what |
|---|---|---|
{sizes}

## Layers
{layers}

## Training
- network: {network}
- data: {_text(data)}, {len(split.train):,} training and {len(split.val):,} validation images,
  {width}x{height} {colour} pixels, {split.num_classes} classes;
  normalised with mean {split.mean_std[0]:.4f} and standard deviation {split.mean_std[1]:.4f}
{synthetic}{taught}- training: {_count(recipe.epochs, "epoch")}, {places}
- weights: the last epoch's{" (moving average)" if recipe.ema else ""};
  {"the test images were not read" if test is None else "the test images decided nothing"}

## Limits
- The input is one {colour} image with the size, polarity and centring of the training
  images{preparing}.
{limit}
- The accuracy above holds for images like the training images{stress}.

## Licence
{licence}

{pictures["curves.png"]}{pictures["confusion.png"]}{pictures["mistakes.png"]}"""
