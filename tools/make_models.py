"""Build the pretrained networks of the package: make models.

For each recipe of the plans below the seed is taken that is the median of the rows in results/ by
validation loss, so that nobody gets a lucky run; of `reader`, which is there to read and not to
show what its recipe reaches, it is the best by validation loss. Its run folder is found in runs/,
or trained again, exported, and evaluated on all validation and test images; what ships goes to
inference/pretrained/RECIPE. The same run folders give the same bytes.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch

from featherweight._files import new_folder
from featherweight.audit import as_graph
from featherweight.card import card
from featherweight.data import Images, Split, load_test
from featherweight.evaluate import Evaluation
from featherweight.export.onnx import export_onnx
from featherweight.exported import Exported
from featherweight.inference.reader import Reader
from featherweight.layers import layer_table
from featherweight.passes import N_PROBE
from featherweight.pretrained import FOLDER
from featherweight.run import Run, open_run
from featherweight.studies.plan import Task, default_table, load_plan
from featherweight.studies.rows import read_rows, row_key
from featherweight.studies.workers import run_task

# Whose runs ship, and whose rows the seeds are chosen from.
PLANS = ("records", "records-first", "sprint-first", "int4", "int4-small", "baseline", "reader")
BEST_SEED = ("reader",)
FILES = (
    "model.onnx",
    "model.safetensors",
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "verdict.json",
)


def shipped_tasks() -> dict[str, list[Task]]:
    """Return the runs of the plans by recipe name."""
    found: dict[str, list[Task]] = {}
    for plan in PLANS:
        for task in load_plan(plan).tasks:
            found.setdefault(task.recipe.name, []).append(task)
    return found


def choose_seed(name: str, tasks: list[Task]) -> tuple[Task, int, str]:
    """Return the run of a recipe's median seed, its validation images right, how it was chosen.

    It is of the first plan in PLANS all of whose seeds of the recipe have a row.
    Rows that are older than the column val_loss are ordered by their validation errors. Of an even
    number of seeds it is the worse of the two in the middle. Of BEST_SEED it is the best seed.
    """
    found = [row for plan in PLANS for row in read_rows(default_table(plan)) if row["val_correct"]]
    for config in dict.fromkeys(task.config for task in tasks):
        by_key = {task.key: task for task in tasks if task.config == config}
        rows = [row for row in found if row_key(row) in by_key]
        if len(rows) == len(by_key):
            break
    else:
        sys.exit(f"error: {name}: not all of its seeds are in the tables of {', '.join(PLANS)}")
    by_loss = all(row["val_loss"] for row in rows)
    rows.sort(
        key=lambda row: (
            float(row["val_loss"]) if by_loss else -int(row["val_correct"]),
            int(row["seed"]),
        )
    )
    place, rank = (0, "best") if name in BEST_SEED else (len(rows) // 2, "median")
    row = rows[place]
    measure = "loss" if by_loss else "errors"
    chosen = f"{rank} of {len(rows)} seeds by validation {measure}"
    return by_key[row_key(row)], int(row["val_correct"]), chosen


def evaluate_file(file: Path, images: Images) -> Evaluation:
    """Return the evaluation of an exported file on labelled images."""
    probabilities = torch.from_numpy(Reader(file).probabilities(images.pixels[:, 0].numpy()))
    loss = torch.nn.functional.nll_loss(probabilities.log(), images.labels)
    return Evaluation(float(loss), probabilities, images.labels)


def ship(run: Run, split: Split, right: int, chosen: str) -> None:
    """Export a run, evaluate its file, and put what ships into the package, whole or not at all.

    `right` is the number of validation images that the table's row has right."""
    exported = export_onnx(run, split, int8=False)
    val = evaluate_file(exported.path, split.val)
    test = evaluate_file(exported.path, load_test(split))
    if val.correct != right:
        chosen += (
            f"; that row has {right:,} images right, and this file is another training of the "
            "seed, whose bits depend on the processor"
        )
    probe = split.normalise(split.train.pixels[:N_PROBE])
    network = as_graph(run.load_model(), split.shape, "graph")
    assert isinstance(network, Exported)
    layers = layer_table(network, trained=True, images=probe)
    verdict = run.verdict
    assert verdict is not None
    FOLDER.mkdir(exist_ok=True)
    folder = new_folder(FOLDER, ".new-")
    for name in FILES:
        shutil.copyfile(run.path / name, folder / name)
    evaluation = {
        "parameters": int(exported.metadata["parameters"]),
        "macs": layers.macs,
        "views": layers.views,
        "validation_correct": val.correct,
        "validation_total": val.total,
        "test_correct": test.correct,
        "test_total": test.total,
        "seed": run.seed,
        "chosen": chosen,
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    text = card(
        Run(folder, run.config),
        exported.float_result,
        split,
        verdict.to_dict(),
        (test.correct, test.total),
        chosen,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    place = FOLDER / run.recipe.name
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)


def main() -> None:
    """Build the networks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help="default: every recipe")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as studies train
    for name, tasks in shipped_tasks().items():
        if arguments.recipes and name not in arguments.recipes:
            continue
        task, right, chosen = choose_seed(name, tasks)
        split, folder = task.load_split(), task.folder(arguments.runs)
        print(f"{name}: seed {task.seed}, the {chosen}", flush=True)
        run_task(task, split, folder, torch.device("cpu"), block=True)
        ship(open_run(folder), split, right, chosen)


if __name__ == "__main__":
    main()
