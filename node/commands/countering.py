"""`counterfactual`: what a model does when one thing in a phantom changes."""

from __future__ import annotations

from pathlib import Path

from node.commands.common import out, print_json
from node.commands.judging import bar, seeds_of
from node.errors import Refuse


def counterfactual(seeds: str, model_folder: Path | None, html: Path | None, as_json: bool) -> None:
    """Run the three tests and print what passed; Markdown, so that it can go into a document."""
    # torch, only now
    from pipeline.evaluation.counterfactual import report  # noqa: PLC0415
    from pipeline.evaluation.counterfactual.run import (  # noqa: PLC0415
        Plan,
        counterfactuals,
        model_supporter,
    )
    from pipeline.evaluation.scores import model_method  # noqa: PLC0415
    from pipeline.synthesis import load_model  # noqa: PLC0415

    if html is not None and not html.parent.is_dir():
        raise Refuse(f"--report: expected a folder to write to, found none at {html.parent}")
    try:
        plan = Plan(seeds_of(seeds))
        model = load_model(model_folder)
    except (FileNotFoundError, ValueError) as error:
        raise Refuse(str(error)) from error
    with bar(as_json) as tell:
        found = counterfactuals(plan, model_method(model), model_supporter(model), tell)
    about = {"name": model.name, "version": model.version, "digest": model.digest}
    if html is not None:
        html.write_text(report.as_html(found, about))
    if as_json:
        print_json(report.as_json(found, about))
    else:
        out.print(report.as_markdown(found, about), highlight=False, markup=False)
