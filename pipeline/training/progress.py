"""The training as a person at a terminal sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.training.loop import Progress


@contextlib.contextmanager
def shown(console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A progress bar; what it gives goes into `loop.train` as ``on_progress``."""
    columns = (
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn(
            "step {task.fields[step]}, loss {task.fields[loss]:.4f}, {task.fields[pairs]} phantoms"
        ),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("training", total=1.0, step=0, loss=float("nan"), pairs=0)

        def tell(p: Progress) -> None:
            bar.update(task, completed=p.share, step=p.step, loss=p.loss, pairs=p.pairs)

        yield tell
