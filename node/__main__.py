"""The command line: what there is and how it is called. What it does stands in `node.commands`.

Exit codes: 0 done, 2 usage, 3 declined, 4 failed. Only this module and typer are imported before a
command runs, so that help comes at once and `status` needs no accelerator stack.
"""
# ruff: noqa: PLC0415  each command imports what it needs, and no more

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

# torch's threads otherwise spin while they wait for each other, which on two cores that other work
# shares takes the time from those that compute. Same bytes. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

app = typer.Typer(
    help="A DICOM node that turns a trauma neck CT into a labelled pseudo-MRI. Research only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
audit_app = typer.Typer(help="Who did what to which object, and is the record whole?")
bench_app = typer.Typer(help="How long does it take?")
database_app = typer.Typer(help="The ledger in another database.")
app.add_typer(audit_app, name="audit")
app.add_typer(bench_app, name="bench")
app.add_typer(database_app, name="database")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML laid over config/default.toml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Model folder; the built-in one when left out.")
]
TlsOption = Annotated[
    bool, typer.Option("--tls", help="Call it with TLS, as [tls] of the settings says.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu or cuda; cuda where there is one.")
]


@app.callback()
def _options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an unexpected error came from.")
    ] = False,
) -> None:
    _Traceback.is_wanted = traceback


class _Traceback:
    is_wanted = False


@app.command()
def demo(
    ct_folder: Annotated[
        Path | None,
        typer.Argument(help="DICOM of a CT of yours; a phantom patient when left out."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = Path("demo-result"),
    as_json: JsonOption = False,
) -> None:
    """The whole journey on this machine, on loopback, with a picture at the end."""
    from node.commands import showing

    showing.demo(ct_folder, out, as_json)


@app.command()
def serve(
    config: ConfigOption = None,
    role: Annotated[
        str | None, typer.Option("--role", help="receive, work or web: this role alone.")
    ] = None,
    supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
    number: Annotated[int, typer.Option("--number", hidden=True)] = 0,
    listener: Annotated[int | None, typer.Option("--listener", hidden=True)] = None,
) -> None:
    """Run the node until SIGTERM or Ctrl-C; it prints one line when it is ready."""
    from node.app import Role
    from node.commands import serving

    if role is not None and role not in list(Role):
        raise typer.BadParameter(f"expected one of {', '.join(Role)}, found {role}")
    if supervised and role is not None:
        serving.serve_place(config, Role(role), number, listener)
    serving.serve(config, None if role is None else Role(role))


@app.command()
def synthesize(
    ct_folder: Annotated[Path, typer.Argument(help="DICOM of one CT, searched with subfolders.")],
    out_folder: Annotated[Path, typer.Argument(help="Made when missing.")],
    contrast: Annotated[
        list[str] | None, typer.Option(help="T2 or STIR; give it twice for both (the default).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the ensemble; follows from the CT when left out.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=0, help="Size of the ensemble; 0 for no spread.")
    ] = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn the CT in a folder into labelled pseudo-MRI, without the network."""
    from node.commands import making

    making.synthesize(ct_folder, out_folder, contrast or [], seed, samples, model, device, as_json)


@app.command()
def phantom(
    out_folder: Annotated[Path, typer.Argument(help="Made when missing.")],
    seed: Annotated[int, typer.Option(min=0, help="Which patient.")] = 0,
    finding: Annotated[
        list[str] | None, typer.Option(help="Exactly these injuries; at random when left out.")
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(help="What disturbs the CT: screws, dental, arms or motion."),
    ] = None,
    healthy: Annotated[bool, typer.Option("--healthy", help="No injury.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write CT, true T2 and true STIR of a phantom patient as DICOM, and findings.json."""
    from node.commands import teaching

    teaching.phantom(out_folder, seed, finding or [], artifact or [], healthy, as_json)


@app.command()
def train(
    work_folder: Annotated[Path, typer.Argument(help="Of checkpoint, pictures and the model.")],
    phantom: Annotated[int, typer.Option("--phantom", min=1, help="How many patients.")] = 1000,
    narrowed: Annotated[
        int,
        typer.Option(min=0, help="How many more with a narrowed canal; half of what is seen."),
    ] = 0,
    start: Annotated[
        Path | None, typer.Option("--from", help="Model folder to begin with, not from nothing.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Length of the run.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Its length in steps instead.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    plain: Annotated[
        bool, typer.Option("--plain", help="The baseline: the same net as plain L1 regression.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of the model.")] = "phantom-neck",
    version: Annotated[str, typer.Option(help="Of the model.")] = "1",
) -> None:
    """Train a model on phantom patients; stopped, it goes on when called again."""
    from node.commands import teaching

    teaching.train(
        work_folder, phantom, narrowed, start, minutes, steps, threads, device, plain, name, version
    )


@app.command()
def evaluate(
    seeds: Annotated[
        str, typer.Option(metavar="A:B", help="Held-out phantoms, A up to B; from 100000 on.")
    ] = "100000:100050",
    model: ModelOption = None,
    regression: Annotated[
        Path | None, typer.Option(help="Model folder of the same net as plain regression.")
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Folder of phantoms, kept between runs; made when missing.")
    ] = None,
    ct: Annotated[
        Path | None, typer.Option("--ct", help="DICOM of a real neck, for measures without truth.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page with tables and pictures.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """How good is a model on phantoms it has never seen, and against what baselines?"""
    from node.commands import judging

    judging.evaluate(seeds, model, regression, pool, ct, html, as_json)


@app.command()
def counterfactual(
    seeds: Annotated[
        str, typer.Option(metavar="A:B", help="Phantoms, A up to B, within 97000:98000.")
    ] = "97000:97005",
    model: ModelOption = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A page with tables and response curves.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Does the output change where the CT does, only there, and is the rest marked?"""
    from node.commands import countering

    countering.counterfactual(seeds, model, report, as_json)


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="Of DICOM files, searched with its subfolders.")],
    address: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    called: Annotated[str, typer.Option(help="AE title of the peer.")] = "PSEUDOMRI",
    calling: Annotated[str, typer.Option(help="AE title to send as.")] = "PSEUDOMRI_SCU",
    tls: TlsOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store all DICOM files of a folder with a peer (C-STORE)."""
    from node.commands import sending

    sending.send(folder, address, called, calling, sending.tls_of(config, tls), as_json)


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="Its name in retrieve.sources.")],
    accession: Annotated[str, typer.Option(help="Accession number: all CT of its studies.")] = "",
    study: Annotated[str, typer.Option(help="Study Instance UID: all CT of it.")] = "",
    series: Annotated[
        str, typer.Option(help="Series Instance UID; with --study when it is not on record.")
    ] = "",
    method: Annotated[
        str | None, typer.Option(help="get or move; the source's own when left out.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a study's CT, or what is missing of it, in from a PACS (C-FIND, C-GET or C-MOVE)."""
    from node.commands import fetching

    if method not in (None, "get", "move"):
        raise typer.BadParameter(f"expected get or move, found {method}", param_hint="--method")
    fetching.fetch(source, accession, study, series, method, config, as_json)


@app.command()
def echo(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    called: Annotated[str, typer.Option(help="AE title of the peer.")] = "PSEUDOMRI",
    calling: Annotated[str, typer.Option(help="AE title to ask as.")] = "PSEUDOMRI_SCU",
    tls: TlsOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask a peer whether it is there (C-ECHO)."""
    from node.commands import sending

    sending.verify_peer(address, called, calling, sending.tls_of(config, tls))


@app.command()
def prove(
    config: ConfigOption = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the node, where node.port is 0.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a phantom through the running node, to a sink of its own, and time each stage."""
    from node.commands import asking

    asking.prove(config, port, as_json)


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """What is where: counts by state, and what needs a person."""
    from node.commands import asking

    asking.status(config, as_json)


@app.command()
def jobs(
    config: ConfigOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the dead letters.")] = False,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: JsonOption = False,
) -> None:
    """The latest syntheses, failed ones first."""
    from node.commands import asking

    asking.jobs(config, failed, limit, as_json)


@app.command()
def retry(
    job: Annotated[str, typer.Argument(help="Job id, or its beginning.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Queue a failed synthesis again; what a destination has is not sent twice."""
    from node.commands import asking

    asking.retry(config, job, as_json)


@app.command()
def dismiss(
    job: Annotated[str, typer.Argument(help="Job id, or its beginning.")],
    reason: Annotated[str, typer.Option(help="For the record; nothing of the patient.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Settle a failed synthesis that nobody will retry: its files may go by the rules."""
    from node.commands import asking

    asking.dismiss(config, job, reason, as_json)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Made when missing; replaces a backup in it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy ledger and archive into a folder, while the node runs."""
    from node.commands import keeping

    keeping.backup(config, folder, as_json)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="That `backup` wrote.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup into the empty data folder and database of the settings."""
    from node.commands import keeping

    keeping.restore(config, folder, as_json)


@database_app.command("copy")
def database_copy(
    url: Annotated[str, typer.Argument(help="postgresql://USER@HOST/NAME, an empty database.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the SQLite ledger of a stopped node to PostgreSQL, and verify the copy."""
    from node.commands import keeping

    keeping.copy_database(config, url, as_json)


@app.command()
def retention(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go and why the rest stays.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete now what the rules of retention name; the running node does so by itself."""
    from node.commands import retaining

    retaining.retention(config, dry_run, as_json)


@audit_app.command("show")
def audit_show(
    uid: Annotated[str, typer.Argument(help="Study, series, instance, output, or job id.")],
    config: ConfigOption = None,
) -> None:
    """Everything on record about a UID, as JSON."""
    from node.commands import asking

    asking.show(config, uid)


@audit_app.command("verify")
def audit_verify(
    config: ConfigOption = None,
    head: Annotated[
        str | None, typer.Option(help="Hash of the last event as you noted it elsewhere.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Is the chain of audit events whole and unchanged?"""
    from node.commands import asking

    asking.verify(config, head, as_json)


@audit_app.command("export")
def audit_export(config: ConfigOption = None) -> None:
    """Every audit event, one JSON object a line."""
    from node.commands import asking

    asking.export(config)


@audit_app.command("hold")
def audit_hold(
    uid: Annotated[str, typer.Argument(help="Study, series, instance, output, or job id.")],
    reason: Annotated[str, typer.Option(help="For people; nothing of the patient.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep all files that belong to a UID, whatever retention says."""
    from node.commands import retaining

    retaining.hold(config, uid, reason, as_json)


@audit_app.command("release")
def audit_release(
    uid: Annotated[str, typer.Argument(help="As it was held.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a hold."""
    from node.commands import retaining

    retaining.release(config, uid, as_json)


@audit_app.command("holds")
def audit_holds(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """What is held, since when, and why."""
    from node.commands import retaining

    retaining.holds(config, as_json)


@audit_app.command("reproduce")
def audit_reproduce(
    uid: Annotated[str, typer.Argument(help="Of an output, its series, the CT, or a job id.")],
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a result again from the archived CT and compare every pixel with the record."""
    from node.commands import proving

    proving.reproduce(config, uid, model, device, as_json)


@bench_app.command("ingest")
def bench_ingest(
    slices: Annotated[int, typer.Option(min=4, help="Of 512 KiB, in all.")] = 400,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    memory_slices: Annotated[
        int, typer.Option(min=0, help="Of each of four associations, for the memory; 0: leave out.")
    ] = 2000,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Receiving; as config/default.toml when left out.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="On the disk to measure; nothing stays there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Instances a second of this node, Orthanc and DCMTK's storescp, from the same sender."""
    from node.commands import ingesting

    ingesting.ingest(slices, repeats, memory_slices, processes, folder, as_json)


@bench_app.command("journey")
def bench_journey(
    ct_folder: Annotated[
        Path | None, typer.Option("--ct", help="DICOM of a CT; a phantom when left out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Keep data and log here; a temporary folder otherwise.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=0, help="Size of the ensemble.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Seconds from the last C-STORE response to the last stored result, by stage."""
    from node.commands import timing

    timing.journey(ct_folder, out, samples, as_json)


@bench_app.command("synthesis")
def bench_synthesis(
    model: ModelOption = None,
    slices: Annotated[int, typer.Option(min=1, help="Of the stack.")] = 15,
    samples: Annotated[int, typer.Option(min=0, help="Size of the ensemble.")] = 8,
    sd_steps: Annotated[
        int, typer.Option("--sd-steps", min=1, help="Of Stable Diffusion to measure, of 25.")
    ] = 2,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seconds and memory of the built-in model beside a Stable Diffusion 1.5."""
    from node.commands import benching

    benching.synthesis(model, slices, samples, sd_steps, device, as_json)


def main() -> None:
    """Run the command line; every error ends in one of the exit codes."""
    # Ended from outside, a command still ends the processes that it started and removes what it
    # made for itself; `serve` has a way of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output has heard enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if _Traceback.is_wanted:
            raise
        from node.commands.common import exit_code

        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
