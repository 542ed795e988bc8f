"""Commands that repeat an experiment of docs/experiments.md."""

from pathlib import Path
from typing import Annotated

import typer

from cxrlines.cli.options import Workers, numbers, resumable, say
from cxrlines.core.files import check_outputs

app = typer.Typer(help="Repeat an experiment of docs/experiments.md.", no_args_is_help=True)
Out = Annotated[Path, typer.Option(help="Folder; the same command resumes.")]


@app.command("claims", epilog="Example: cxrlines experiment claims --claims 1,2 --seeds 0")
def experiment_claims(
    out: Out = Path("runs/claims"),
    seeds: Annotated[
        str, typer.Option(help="One run for each seed, with films, folds and draws of its own.")
    ] = "0,1,2",
    claims: Annotated[str | None, typer.Option(help="Only these claims, e.g. 1,2; default: all.")] = None,
    workers: Workers = None,
) -> None:
    """Test the claims of the write-up behind `hotwater` on phantoms: a table of differences with intervals."""
    from cxrlines.lab.experiments.claims import run_claims
    from cxrlines.lab.experiments.comparisons import CLAIMS, table_of

    chosen = CLAIMS if claims is None else numbers("--claims", claims)
    check_outputs(folders={"--out": out})
    with resumable():
        rows = run_claims(out, seeds=numbers("--seeds", seeds), claims=chosen, workers=workers, say=say)
    typer.echo(f"{table_of(rows)}\n{out / 'claims.md'}\n{out / 'claims.json'}")


@app.command("distillation", epilog="Example: cxrlines experiment distillation --seeds 0,1")
def experiment_distillation(
    out: Out = Path("runs/distillation"),
    seeds: Annotated[
        str, typer.Option(help="One run for each seed, with films, folds and draws of its own.")
    ] = "0,1,2",
    workers: Workers = None,
) -> None:
    """Compare self-distillation from teachers trained on a third of the films, two thirds, or all; on phantoms."""
    from cxrlines.lab.experiments.comparisons import table_of
    from cxrlines.lab.experiments.distillation import run_distillation

    check_outputs(folders={"--out": out})
    with resumable():
        rows = run_distillation(out, seeds=numbers("--seeds", seeds), workers=workers, say=say)
    typer.echo(f"{table_of(rows)}\n{out / 'distillation.md'}\n{out / 'distillation.json'}")


@app.command("small", epilog="Example: cxrlines experiment small --out runs/small")
def experiment_small(out: Out = Path("runs/small"), workers: Workers = None) -> None:
    """Train the recipe hotwater in small, on phantoms: every member, stage and external set, in under an hour."""
    from cxrlines.lab.experiments.small import run_small

    check_outputs(folders={"--out": out})
    with resumable():
        run = run_small(out, workers=workers, say=say)
    typer.echo(f"{run / 'metrics.json'}\n{run / 'report.html'}")


@app.command("recommended", epilog="Example: cxrlines experiment recommended --films 360 --test 200")
def experiment_recommended(
    out: Annotated[Path, typer.Option(help="Folder; the same command resumes. Seeds lie in OUT/seed<k>.")] = Path(
        "runs/margin"
    ),
    seeds: Annotated[
        str, typer.Option(help="One run of both recipes for each seed, with films and draws of its own.")
    ] = "0,1,2",
    films: Annotated[int, typer.Option(min=24, help="Training films; those of external sets in proportion.")] = 360,
    test: Annotated[int, typer.Option(min=10, help="Test films, of other patients.")] = 200,
    workers: Workers = None,
) -> None:
    """Compare `recommended` with hotwater-small: same films, folds and backbone, equal compute; on phantoms."""
    from cxrlines.lab.experiments.margin import run_margins

    check_outputs(folders={"--out": out})
    chosen = numbers("--seeds", seeds)
    with resumable():
        text = run_margins(out, seeds=chosen, own=films, test=test, workers=workers, say=say)
    typer.echo(f"{text}\n{out / 'margin.md'}")
