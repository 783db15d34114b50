"""`evaluate`: how good a model is, on phantoms and on a real neck."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from node.commands.common import err, out, print_json, settings_of
from node.commands.making import chosen_paths
from node.errors import Refuse

if TYPE_CHECKING:
    from pipeline.anatomy import Anatomy
    from pipeline.geometry import Volume

POOL = Path.home() / ".cache" / "pseudomri" / "phantoms"


def evaluate(
    seeds: str,
    model_folder: Path | None,
    regression_folder: Path | None,
    pool: Path | None,
    ct_folder: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Judge a model; phantoms that the pool lacks are drawn first, and kept."""
    # torch, only now
    from pipeline.evaluation import report  # noqa: PLC0415
    from pipeline.evaluation.run import Plan, evaluate_all  # noqa: PLC0415
    from pipeline.synthesis import load_model  # noqa: PLC0415

    try:
        plan = Plan(pool or POOL, seeds_of(seeds))
        model = load_model(model_folder)
        # neither is there for Stable Diffusion, which `pseudomri bench synthesis` compares
        _ = model.pipeline
        regression = None if regression_folder is None else load_model(regression_folder)
    except (FileNotFoundError, ValueError) as error:
        raise Refuse(str(error)) from error
    if html is not None and not html.parent.is_dir():
        raise Refuse(f"--html: expected a folder to write to, found none at {html.parent}")
    with bar(as_json) as tell:
        real = None if ct_folder is None else _neck(ct_folder)
        found = evaluate_all(plan, model, regression=regression, real=real, tell=tell)
    if html is not None:
        html.write_text(report.as_html(found))
    if as_json:
        print_json(report.as_json(found))
    else:
        # as Markdown, so that what is printed can go into a document
        out.print(report.as_markdown(found), highlight=False, markup=False)


def seeds_of(text: str) -> range:
    """``A:B`` as the seeds from A up to, not including, B.

    Raises:
        Refuse: For anything else.
    """
    if not (match := re.fullmatch(r"(\d+):(\d+)", text)):
        raise Refuse(f"--seeds: expected A:B, such as 100000:100050, found {text}")
    return range(int(match[1]), int(match[2]))


def _neck(folder: Path) -> tuple[Volume, Anatomy]:
    """Sagittal stack and anatomy of the CT that the node would select in the folder."""
    from pydicom import dcmread  # noqa: PLC0415

    from pipeline.anatomy import find_anatomy  # noqa: PLC0415
    from pipeline.reformat import sagittal_stack  # noqa: PLC0415
    from pipeline.volume import read_series  # noqa: PLC0415

    paths = chosen_paths(folder, settings_of(None))
    series = read_series([dcmread(path) for path in paths])
    anatomy = find_anatomy(series.volume)
    return sagittal_stack(series.volume, anatomy), anatomy


@contextmanager
def bar(is_quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar that is told what is being done, how much of it is done, and of how much."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=is_quiet, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield tell
