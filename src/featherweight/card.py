"""The model card of a run: Markdown with the YAML header that model hubs read.

Example:
    text = card(run, result, split, verdict.to_dict())
"""

import json
from pathlib import Path
from typing import Any

from .data import Split
from .evaluate import Evaluation, percent
from .recipe import RECIPES
from .run import Run

# Files of the run folder that the card lists if they exist.
FILES = {
    "model.safetensors": "weights for PyTorch",
    "model.onnx": "ONNX, 32-bit floats",
    "model-int8.onnx": "ONNX, 8-bit integers",
}
# Pictures of the run folder that the card shows if they exist.
PICTURES = {
    "verdict.svg": "verdict",
    "curves.png": "loss and mistakes over epochs",
    "confusion.png": "confusion matrix",
    "mistakes.png": "every mistake",
}
VERDICTS = {True: "pass", False: "**FAIL**", None: "not judged"}


def _header(run: Run, result: Evaluation, data: str, embedded: bool) -> str:
    """Return the YAML header that Hugging Face's hub reads; JSON strings are valid YAML."""
    dataset = "ylecun/mnist" if embedded else data
    # The hub refuses the names of data sets that it does not have.
    known = f"datasets: {json.dumps([dataset])}\n" if embedded else ""
    tags = ["featherweight", "image-classification", *(["mnist"] if embedded else [])]
    return f"""---
license: apache-2.0
library_name: featherweight
pipeline_tag: image-classification
tags: {json.dumps(tags)}
{known}metrics: ["accuracy"]
model-index:
- name: {json.dumps(run.recipe.name)}
  results:
  - task: {{"type": "image-classification"}}
    dataset: {{"type": {json.dumps(dataset)}, "name": {json.dumps(data)}, "split": "validation"}}
    metrics:
    - {{"type": "accuracy", "value": {result.accuracy:.6g}, "name": "validation accuracy"}}
---
"""


def _count(n: int, word: str) -> str:
    """Return a count with its noun, such as `1 epoch` or `19 epochs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def card(
    run: Run,
    result: Evaluation,
    split: Split,
    verdict: dict[str, Any],
    test: Evaluation | None = None,
    chosen: str = "",
) -> str:
    """Return the text of a model card.

    It says what the network is, its measured accuracy, how to use it, how it was trained, and its
    limits.

    Args:
        run: The finished run.
        result: Its evaluation on `split.val`.
        split: Its images.
        verdict: Its verdict, as `Verdict.to_dict` returns it.
        test: Its evaluation on the test images, if they were read.
        chosen: How the run was chosen among others, if it was.
    """
    environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    rows, recipe, embedded = run.read_metrics(), run.recipe, split.source is None
    low, high = result.interval
    clauses = "\n".join(
        f"| {c['clause']} | {c['required']} | {c['found']} | {c['how']} | {VERDICTS[c['passed']]} |"
        for c in verdict["clauses"]
    )
    sizes = "\n".join(
        f"| {name} | {(run.path / name).stat().st_size:,} | {what} |"
        for name, what in FILES.items()
        if (run.path / name).is_file()
    )
    height, width = split.shape[1:]
    data = "MNIST" if split.source is None else Path(split.source).name
    where = (
        environment["gpu"] or f"{environment['cpu']}, {_count(environment['threads'], 'thread')}"
    )
    commit = f", commit {environment['commit']}" if environment["commit"] else ""
    replaced = any(
        preset.name == recipe.name and preset.model != recipe.model for preset in RECIPES
    )
    network = f"`{recipe.model}` {json.dumps(recipe.model_args)}" + (
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
    seconds = sum(row["seconds"] for row in rows)
    tested = ""
    if test is not None:
        tested = f"Test, stated and not chosen by: **{percent(test.correct, test.total)}**.\n"
    if chosen:
        tested += f"Seed {run.seed} is the {chosen}.\n"
    pictures = {
        name: f"![{what}]({name})\n" if (run.path / name).is_file() else ""
        for name, what in PICTURES.items()
    }
    module = recipe.model.partition(":")[0]
    needed = "" if module.startswith("featherweight.") else f" and `{module}` on Python's path"
    licence = (
        "The training images are MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0."
        if embedded
        else "The training images have their own licence."
    )
    return f"""{_header(run, result, data, embedded)}
# {recipe.name}, seed {run.seed}

Contract `{verdict["contract"]}`: **{"PASS" if verdict["passed"] else "FAIL"}**.
Validation: **{percent(result.correct, result.total)}**,
95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson),
expected calibration error {100 * result.calibration_error:.2f} %.
{tested}
| clause | required | found | how | verdict |
|---|---|---|---|---|
{clauses}

{pictures["verdict.svg"]}
## Use
In this folder, with `featherweight` installed{needed}:

```sh
featherweight evaluate .                      # measure the validation accuracy again
featherweight export . --format onnx          # write model.onnx, which needs no PyTorch
featherweight predict photo.jpg --model .     # read a picture with model.onnx
```

`featherweight audit .` checks the contract again.

| file | bytes | what |
|---|---|---|
{sizes}

## Training
- network: {network}
- data: {data}, {len(split.train):,} training and {len(split.val):,} validation images,
  {width}x{height} grey pixels, {split.num_classes} classes;
  normalised with mean {split.mean_std[0]:.4f} and standard deviation {split.mean_std[1]:.4f}
- training: {_count(recipe.epochs, "epoch")}, {seconds:.0f} s on {where};
  torch {environment["torch"]}, featherweight {environment["featherweight"]}{commit}
- weights: the last epoch's{" (moving average)" if recipe.ema else ""};
  {"the test images were not read" if test is None else "the test images decided nothing"}

## Limits
- The input is one grey image with the size, polarity and centring of the training
  images{preparing}.
- The network predicts one of its {split.num_classes} classes for any image, even if it shows
  none of them.
- The accuracy above holds for images like the training images{stress}.

## Licence
Apache-2.0. {licence}

{pictures["curves.png"]}{pictures["confusion.png"]}{pictures["mistakes.png"]}"""
