"""Show how a training goes, with a bar: lines on a terminal, a table in a notebook.

Example:
    with show(run, n_images, console) as (on_epoch, on_batch):
        train(run, split, device, on_epoch, on_batch)
"""

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from .run import Run

OnEpoch = Callable[[dict[str, Any]], None]
OnBatch = Callable[[int, int, int, float], None]
HEADINGS = ("epoch", "seconds", "lr", "train loss", "val loss", "val accuracy")
REDRAW = 0.2  # seconds between two pictures of the bar in a notebook


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _cells(row: dict[str, Any]) -> list[str]:
    """Return one epoch's row of metrics.jsonl as the texts under HEADINGS."""
    correct, total = row["val_correct"], row["val_total"]
    return [
        str(row["epoch"]),
        f"{row['seconds']:.2f}",
        f"{row['lr']:.4f}",
        f"{row['train_loss']:.4f}",
        f"{row['val_loss']:.4f}",
        f"{100 * correct / total:.2f} % ({correct:,} of {total:,})",
    ]


def _headline(run: "Run", n_images: int) -> str:
    return (
        f"run {run.path}: {run.recipe.name}, seed {run.seed}, {run.recipe.epochs} epochs, "
        f"{n_images:,} images"
    )


def show(
    run: "Run", n_images: int, console: Console
) -> contextlib.AbstractContextManager[tuple[OnEpoch, OnBatch]]:
    """Return a context with the callbacks of `train` for a run on `n_images` training images.

    In a notebook they draw below the cell, elsewhere on the console."""
    return _notebook(run, n_images) if in_notebook() else _terminal(run, n_images, console)


@contextlib.contextmanager
def _terminal(run: "Run", n_images: int, console: Console) -> Iterator[tuple[OnEpoch, OnBatch]]:
    console.print(_headline(run, n_images), markup=False)
    console.print("epoch  seconds      lr  train loss  val loss  val accuracy")
    # In its description and not in fields of its own, which reset() would forget. 80 columns hold
    # all of it.
    columns = TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=None)

        def on_batch(epoch: int, step: int, n_steps: int, loss: float) -> None:
            speed = progress.tasks[0].speed  # steps a second; None at first
            rate = f", {speed * n_images / n_steps:,.0f} images/s" if speed else ""
            progress.update(
                bar,
                completed=step,
                total=n_steps,
                description=f"epoch {epoch} of {run.recipe.epochs}, loss {loss:.4f}{rate}",
            )

        def on_epoch(row: dict[str, Any]) -> None:
            epoch, seconds, lr, train_loss, val_loss, accuracy = _cells(row)
            console.print(
                f"{epoch:>5} {seconds:>8} {lr:>7} {train_loss:>11} {val_loss:>9}  {accuracy}"
            )
            progress.reset(bar, description="")

        yield on_epoch, on_batch


@contextlib.contextmanager
def _notebook(run: "Run", n_images: int) -> Iterator[tuple[OnEpoch, OnBatch]]:
    from IPython.display import HTML, display

    rows = [_cells(row) for row in run.read_metrics()]
    drawn = 0.0

    def table(bar: str) -> Any:
        head = "".join(f"<th>{name}</th>" for name in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows
        )
        return HTML(  # type: ignore[no-untyped-call]
            f"<p>{html.escape(_headline(run, n_images))}</p>{bar}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    handle = display(table(""), display_id=True)  # type: ignore[no-untyped-call]

    def on_batch(epoch: int, step: int, n_steps: int, loss: float) -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= REDRAW:
            drawn = time.monotonic()
            handle.update(
                table(
                    f'<p><progress value="{step}" max="{n_steps}"></progress> '
                    f"epoch {epoch} of {run.recipe.epochs}, loss {loss:.4f}</p>"
                )
            )

    def on_epoch(row: dict[str, Any]) -> None:
        rows.append(_cells(row))
        handle.update(table(""))

    yield on_epoch, on_batch
