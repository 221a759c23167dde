"""The command line; the only file that prints. Data goes to stdout, talk to stderr.

    featherweight train
    featherweight evaluate runs/feather-20k-s0-1 --split test
"""

# torch takes seconds to load: only the commands that need it import the modules that do.
import dataclasses
import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from . import __version__
from .contract import CONTRACTS, load_contract

if TYPE_CHECKING:
    from .audit import Verdict
    from .evaluate import Evaluation
    from .run import Run
    from .study import Summary

app = App(name="featherweight", version=__version__, help_format="plaintext",
          help="Train, prove and ship image classifiers that must fit a hard budget.")
# A table in a pipe or a file is as wide as it needs to be, unless COLUMNS says otherwise.
out = Console(highlight=False, soft_wrap=False,
              width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
talk = Console(stderr=True, highlight=False, soft_wrap=True)

DONE, BROKEN, USAGE, INTERRUPTED = 0, 1, 2, 130


def _print_verdict(verdict: "Verdict") -> None:
    table = Table(title=f"contract {verdict.contract}", title_justify="left")
    for column in ("clause", "required", "found", "how", "verdict"):
        table.add_column(column, overflow="fold")
    for clause in verdict.clauses:
        style = "green" if clause.passed else "bold red"
        table.add_row(clause.clause, clause.required, clause.found, clause.how,
                      f"[{style}]{'pass' if clause.passed else 'FAIL'}[/]")
    out.print(table)
    out.print(f"verdict: [bold]{'PASS' if verdict.passed else 'FAIL'}[/]")


def _judge(run: "Run", data: str | None, device: str) -> "Verdict":
    """Audit a finished run against its contract and write the verdict, the pictures and the card."""
    from .audit import audit_run
    from .report import report
    from .train import pick_device

    split = run.load_split(data)
    verdict, result = audit_run(run, split, device=pick_device(device))
    run.write_json("verdict.json", verdict.to_dict())
    if result is not None:
        report(run, result, split, verdict.to_dict())
    return verdict


@app.command
def train(*, recipe: str | None = None, model: str | None = None, contract: str | None = None,
          data: str | None = None, seed: int | None = None, epochs: int | None = None,
          device: str = "auto", out: str | None = None, resume: str | None = None) -> int:
    """Train a network under a contract, then audit and report it.

    Parameters
    ----------
    recipe
        how to train, one of `featherweight recipes` (feather-20k).
    model
        a network of your own, MODULE:CLASS, trained by the recipe instead of its own.
    contract
        what must hold, one of `featherweight contracts` or a TOML file (the recipe's own).
    data
        a directory of MNIST-format files or an .npz, instead of the embedded MNIST.
    seed
        of the initial weights and everything drawn (0).
    epochs
        instead of the recipe's.
    device
        cpu, cuda, or auto.
    out
        the run's folder, which must not exist yet (runs/<recipe>-s<seed>-<n>).
    resume
        go on with the run in this folder.
    """
    from .data import load_split
    from .model import build
    from .recipe import find_recipe
    from .run import create_run, open_run
    from .train import Diverged, check_recipe, pick_device, seed_everything
    from .train import train as train_run

    where = pick_device(device)
    if resume is not None:
        given = {"recipe": recipe, "model": model, "contract": contract, "seed": seed, "epochs": epochs,
                 "out": out}
        if named := [key for key, value in given.items() if value is not None]:
            raise ValueError(f"--resume with --{named[0]}: a run keeps its own; "
                             f"hint: featherweight train --resume {shlex.quote(resume)}")
        run = open_run(resume)
        split = run.load_split(data)
    else:
        chosen = find_recipe(recipe or "feather-20k")
        if model is not None:
            chosen = dataclasses.replace(chosen, model=model, model_args={})
        if epochs is not None:
            chosen = dataclasses.replace(chosen, epochs=epochs)
        held = load_contract(contract or chosen.contract)
        split = load_split(data, held.train_size, held.val_size)
        # Before the folder is made, so that a network that can't be used leaves none behind.
        seed = seed or 0
        if seed < 0:
            raise ValueError(f"--seed: got {seed}, expected 0 or more")
        seed_everything(seed, -1)
        network = build(chosen.model, chosen.model_args, split.num_classes)
        check_recipe(chosen, split, network)
        run = create_run(out, chosen, held, split, seed, where, shlex.join(["featherweight", *sys.argv[1:]]))
    talk.print(f"run {run.path}: {run.recipe.name}, seed {run.seed}, {run.recipe.epochs} epochs, "
               f"{len(split.train):,} images, on {where}")
    talk.print("epoch  seconds      lr  train loss  val loss  val accuracy")
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.fields[rate]}"),
               TextColumn("loss {task.fields[loss]:.4f}"), TimeRemainingColumn())
    try:
        with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
            bar = progress.add_task("", total=None, epoch=1, rate="", loss=0.0)

            def on_batch(step: int, n_steps: int, loss: float) -> None:
                speed = progress.tasks[0].speed
                rate = f"{speed * len(split.train) / n_steps:,.0f} images/s" if speed else ""
                progress.update(bar, completed=step, total=n_steps, loss=loss, rate=rate)

            def on_epoch(row: dict[str, Any]) -> None:
                correct, total = row["val_correct"], row["val_total"]
                talk.print(f"{row['epoch']:5} {row['seconds']:8.2f} {row['lr']:7.4f} {row['train_loss']:11.4f} "
                           f"{row['val_loss']:9.4f}  {100 * correct / total:.2f} % ({correct:,} of {total:,})")
                progress.reset(bar, epoch=row["epoch"] + 1)

            train_run(run, split, where, on_epoch, on_batch)
        verdict = _judge(run, data, device)
    except Diverged as error:
        talk.print(f"error: diverged: {error}\nhint: the log is kept in {run.path / 'metrics.jsonl'}; "
                   "lower the recipe's lr")
        return BROKEN
    except KeyboardInterrupt:
        talk.print(f"\ninterrupted; go on with: featherweight train --resume {shlex.quote(str(run.path))}")
        return INTERRUPTED
    _print_verdict(verdict)
    talk.print(f"see {run.path / 'README.md'}")
    return DONE if verdict.passed else BROKEN


@app.command
def audit(target: str, *, contract: str | None = None, data: str | None = None,
          json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Judge a run folder, or the structure of MODULE:CLASS, against a contract.

    Parameters
    ----------
    target
        a run folder or MODULE:CLASS.
    contract
        another than the run's own: a name or a TOML file.
    data
        where the run's data set is now.
    json
        print the verdict as JSON.
    """
    from pathlib import Path

    from .audit import audit_model, audit_run
    from .data import load_split
    from .evaluate import normalise
    from .model import build, check_model
    from .run import open_run

    if ":" in target and not Path(target).exists():
        held = load_contract(contract or "era-v3-s6")
        split = load_split(data, held.train_size, held.val_size)
        network = build(target, {}, split.num_classes)
        check_model(network, normalise(split.train.pixels[:8], split.mean_std), split.num_classes)
        verdict = audit_model(network, split, held)
    else:
        run = open_run(target)
        verdict, _ = audit_run(run, run.load_split(data), load_contract(contract) if contract else None)
    if json:
        _print_json(verdict.to_dict())
    else:
        _print_verdict(verdict)
    return DONE if verdict.passed else BROKEN


@app.command
def evaluate(run: str, *, split: Literal["val", "test"] = "val", data: str | None = None,
             device: str = "auto", json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Loss, accuracy with its interval, calibration, a row a class and the confusion matrix.

    Parameters
    ----------
    run
        a run folder.
    split
        val, or test: the official test images, on which nothing may be chosen.
    data
        where the run's data set is now.
    device
        cpu, cuda, or auto.
    json
        print the figures as JSON.
    """
    from .data import load_test
    from .evaluate import evaluate as evaluate_images
    from .run import open_run
    from .train import pick_device

    where, opened = pick_device(device), open_run(run)
    images = opened.load_split(data)
    part = images.val if split == "val" else load_test(images)
    result = evaluate_images(opened.load_model().to(where), part.to(where), images.mean_std)
    if json:
        _print_json({"split": split, **result.to_dict()})
    else:
        _print_evaluation(split, result)
    return DONE


def _print_evaluation(split: str, result: "Evaluation") -> None:
    from .evaluate import percent

    low, high = result.interval
    out.print(f"{split}: {percent(result.correct, result.total)}, "
              f"95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson)")
    out.print(f"loss {result.loss:.4f} nats, expected calibration error {100 * result.calibration_error:.2f} %")
    values = result.to_dict()
    table = Table("class", "images", "right", "recall %", "precision %")
    for row in values["per_class"]:
        table.add_row(str(row["class"]), str(row["total"]), str(row["correct"]),
                      *("-" if row[key] is None else f"{100 * row[key]:.2f}" for key in ("recall", "precision")))
    out.print(table)
    confusion = Table("true \\ read", *map(str, range(len(values["confusion"]))), title="confusion matrix")
    for label, counts in enumerate(values["confusion"]):
        confusion.add_row(str(label), *(str(n) if n else "." for n in counts))
    out.print(confusion)


@app.command
def report(run: str, *, data: str | None = None, device: str = "auto") -> int:
    """Audit a run and write its verdict, pictures and model card anew.

    Parameters
    ----------
    run
        a run folder.
    data
        where the run's data set is now.
    device
        cpu, cuda, or auto.
    """
    from .run import open_run

    opened = open_run(run)
    verdict = _judge(opened, data, device)
    for name in ("verdict.json", "README.md", "curves.png", "confusion.png", "mistakes.png"):
        out.print(str(opened.path / name), soft_wrap=True)
    return DONE if verdict.passed else BROKEN


@app.command
def study(plan: str, *, results: str | None = None, runs: str = "runs", data: str | None = None,
          workers: int | None = None, threads: int = 1, device: str = "auto") -> int:
    """Train every run of a plan, recipes x overrides x seeds, and add a row a run to one CSV.

    A study that was stopped goes on where it was when it is started again.

    Parameters
    ----------
    plan
        a TOML file; `results/records.toml` is one.
    results
        the CSV (the plan's name with .csv).
    runs
        where the run folders are kept.
    data
        a directory of MNIST-format files or an .npz, instead of the embedded MNIST.
    workers
        processes at a time (as many as cores by `threads`).
    threads
        of each process.
    device
        cpu, cuda, or auto.
    """
    from pathlib import Path

    from .study import load_plan, run_study, summarise
    from .train import pick_device

    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}: got {value}, expected 1 or more")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    where, wanted = pick_device(device), load_plan(plan, data)
    table = Path(results) if results is not None else Path(plan).with_suffix(".csv")
    columns = (TextColumn("{task.completed} of {task.total} runs"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as progress:
        bar = progress.add_task("", total=len(wanted.tasks))

        def on_row(row: dict[str, str]) -> None:
            val = f"val {row['val_correct']} of {row['val_total']}" if row["val_correct"] else "no accuracy"
            talk.print(f"{row['recipe']} seed {row['seed']}: {val}, {row['verdict']}, {row['seconds']} s")
            progress.advance(bar)

        try:
            rows = run_study(wanted, table, Path(runs), where, workers or max(1, cores // threads), threads, on_row)
        except KeyboardInterrupt:
            talk.print("interrupted; the same command goes on")
            return INTERRUPTED
    _print_summaries(summarise(rows))
    talk.print(f"see {table}")
    return DONE if all(row["verdict"] == "PASS" for row in rows) else BROKEN


def _print_summaries(summaries: "list[Summary]") -> None:
    table = Table("recipe", "params", "pass", "on", "n", "mean %", "s.d.", "least", "95 % of mean", "s",
                  box=None, padding=(0, 2, 0, 0), pad_edge=False)  # fits in 80 columns
    for summary in summaries:
        first = (summary.recipe, summary.n_params, f"{summary.passed}/{summary.runs}")
        for part, found in (("val", summary.val), ("test", summary.test)):
            if found is not None:
                low, high = (100 * end for end in found.interval)
                spread = ("-", f"{100 * found.least:.2f}", "-") if found.n == 1 else (
                    f"{100 * found.sd:.3f}", f"{100 * found.least:.2f}", f"{low:.2f} to {high:.2f}")
                table.add_row(*first, part, str(found.n), f"{100 * found.mean:.3f}", *spread,
                              f"{summary.seconds:.0f}" if part == "val" else "")
                first = ("", "", "")
        if summary.val is None:
            table.add_row(*first, "-", "0")
    out.print(table)


@app.command
def frontier(tables: list[str], *, public: str | None = None, out: str = "frontier.svg") -> int:
    """Draw the test accuracy of studies over their parameters, beside the marks of others.

    Parameters
    ----------
    tables
        a study's CSVs; recipes whose test images were not read are left out.
    public
        a CSV of figures of others: n_params, accuracy, epochs, protocol, source.
    out
        the picture, .svg or .png.
    """
    from pathlib import Path

    from .report import Mark, frontier, read_marks, save_picture
    from .study import read_table, summarise

    rows = [row for table in tables for row in read_table(Path(table), must_exist=True)]
    protocol = "ours: mean of the seeds and its 95 % interval, last epoch, 50,000 training images, test read once"
    marks = [Mark(f"{summary.recipe} ({summary.test.n} seeds)", int(summary.n_params), summary.test.mean,
                  summary.test.interval, protocol)
             for summary in summarise(rows) if summary.test is not None]
    if not marks:
        raise ValueError(f"{', '.join(tables)}: no row with a test count; hint: test = true in the plan")
    save_picture(frontier(marks + (read_marks(Path(public)) if public else [])), Path(out))
    talk.print(f"see {out}")
    return DONE


@app.command
def bench(what: Literal["train", "sprint"], *, device: str = "auto") -> int:
    """Measure recipes against the baseline, in turn in one process.

    Parameters
    ----------
    what
        train: the training steps of the baseline and the default recipe, and where the latter's time goes, a
        minute or two; sprint: the whole trainings of the baseline and of `sprint`, before and after it, ten
        minutes or more.
    device
        cpu, cuda, or auto.
    """
    from .bench import bench_sprint, bench_train, profile_train
    from .data import load_split
    from .evaluate import percent
    from .train import pick_device

    split, where = load_split(None, 50_000, 10_000), pick_device(device)
    if what == "sprint":
        races = bench_sprint(
            ("sprint", "baseline", "sprint"), split, where,
            on_epoch=lambda name, row: talk.print(f"{name} epoch {row['epoch']}: {row['seconds']:.1f} s"))
        table = Table("recipe", "epochs", "seconds", "validation", "of the baseline's time")
        baseline = next(race for race in races if race.recipe == "baseline")
        for race in races:
            table.add_row(race.recipe, str(race.epochs), f"{race.seconds:.1f}",
                          percent(race.val_correct, race.val_total),
                          "" if race is baseline else f"1/{baseline.seconds / race.seconds:.1f}")
        out.print(table)
        return DONE
    speeds, ratio = bench_train(("baseline", "feather-20k"), split, where)
    table = Table("recipe", "images/s", "s/epoch", "GFLOP/s", "of matmul peak", "augmentation")
    for speed in speeds:
        table.add_row(speed.recipe, f"{speed.images_per_second:,.0f}", f"{speed.seconds_per_epoch:.2f}",
                      f"{speed.gflops:.1f}", f"{100 * speed.share_of_peak:.0f} %",
                      f"{100 * speed.share_augmentation:.1f} % of the step")
    out.print(table)
    out.print(f"epoch of {speeds[-1].recipe} / epoch of {speeds[0].recipe}: "
              f"{ratio.median:.3f} (rounds {ratio.least:.3f} to {ratio.most:.3f})")
    profile = Table("operation", f"of {speeds[-1].recipe}'s step")
    for operation, share in profile_train(speeds[-1].recipe, split, where)[:12]:
        profile.add_row(operation, f"{100 * share:.1f} %")
    out.print(profile)
    return DONE


@app.command
def recipes() -> int:
    """The recipes, as JSON."""
    from .recipe import RECIPES

    _print_json([recipe.to_dict() for recipe in RECIPES])
    return DONE


@app.command
def contracts() -> int:
    """The built-in contracts, as TOML files to copy from."""
    out.print("\n".join(contract.to_toml() for contract in CONTRACTS), end="", markup=False, soft_wrap=True)
    return DONE


def _print_json(values: Any) -> None:
    out.print(json.dumps(values, indent=2), markup=False, soft_wrap=True)


def main() -> None:
    """Run one command; what is wrong with the input is one line on stderr and exit code 2."""
    try:
        code = app(exit_on_error=False, print_error=False, result_action="return_value")
    except (ValueError, OSError, CycloptsError) as error:
        message = " ".join(str(error).split())
        message, _, hint = message.partition("hint: ")
        talk.print(f"error: {message.rstrip('; ')}", markup=False)
        talk.print(f"hint: {hint or 'featherweight --help'}", markup=False)
        code = USAGE
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code or DONE)
