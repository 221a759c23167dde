"""The model card of a run, in Markdown with the YAML header that model hubs read.

text = card(run, result, split, verdict.to_dict())
"""

import json
from pathlib import Path
from typing import Any

from .data import Split
from .evaluate import Evaluation, percent
from .recipe import RECIPES
from .run import Run

FILES = {
    "model.safetensors": "weights, for PyTorch",
    "model.onnx": "ONNX, 32-bit floats",
    "model-int8.onnx": "ONNX, 8-bit integers",
}
VERDICTS = {True: "pass", False: "**FAIL**", None: "not judged"}


def _header(run: Run, result: Evaluation, data: str, embedded: bool) -> str:
    """The keys that Hugging Face's hub knows, YAML; strings are quoted as JSON, which is YAML too."""
    dataset = "ylecun/mnist" if embedded else data
    known = (
        f"datasets: {json.dumps([dataset])}\n" if embedded else ""
    )  # the hub refuses names that it doesn't have
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
    """`1 epoch`, `19 epochs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def card(run: Run, result: Evaluation, split: Split, verdict: dict[str, Any]) -> str:
    """What the network is, what it was measured to do, how to use it, how it was made, and its limits.

    `result` is over `split.val`; `verdict` is as `Verdict.to_dict()` gives it."""
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
        ", not the recipe's own" if replaced else ""
    )
    # What prepares pictures, and what the stress set is made of, are digits.
    preparing = stress = ""
    if embedded:
        preparing = "; `featherweight predict` and `serve`\n  prepare pictures of digits so"
        stress = "; `featherweight stress .` measures it on digits\n  drawn, printed and photographed otherwise"
    module = recipe.model.partition(":")[0]
    needed = "" if module.startswith("featherweight.") else f" and `{module}` on Python's path"
    licence = (
        "The training images are MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0."
        if embedded
        else "The training images have a licence of their own."
    )
    return f"""{_header(run, result, data, embedded)}
# {recipe.name}, seed {run.seed}

Contract `{verdict["contract"]}`: **{"PASS" if verdict["passed"] else "FAIL"}**.
Validation: **{percent(result.correct, result.total)}**,
95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson),
expected calibration error {100 * result.calibration_error:.2f} %.

| clause | required | found | how | verdict |
|---|---|---|---|---|
{clauses}

![verdict](verdict.svg)

## Use
In this folder, with `featherweight` installed{needed}:

```sh
featherweight evaluate .                      # validation accuracy, measured again
featherweight export . --format onnx          # model.onnx, which needs no PyTorch
featherweight predict . photo.jpg             # the digit in a picture, by model.onnx
```

`featherweight audit .` judges it again.

| file | bytes | what |
|---|---|---|
{sizes}

## Made from
- network: {network}
- data: {data}, {len(split.train):,} training and {len(split.val):,} validation images,
  {width}x{height} grey pixels, {split.num_classes} classes;
  normalised by mean {split.mean_std[0]:.4f} and standard deviation {split.mean_std[1]:.4f}
- training: {_count(recipe.epochs, "epoch")}, {sum(row["seconds"] for row in rows):.0f} s on {where};
  torch {environment["torch"]}, featherweight {environment["featherweight"]}{commit}
- the weights are the last epoch's{" (moving average)" if recipe.ema else ""}; the test images were not read

## Limits
- Input is one grey image, in size, polarity and centring like the training images{preparing}.
- The network gives one of its {split.num_classes} classes for any image, also for one that shows none of them.
- The accuracy above is on images of the training images' kind{stress}.

## Licence
Apache-2.0. {licence}

![loss and mistakes over epochs](curves.png)
![confusion matrix](confusion.png)
![every mistake](mistakes.png)
"""
