"""Commands of projects of corrections."""

from pathlib import Path
from typing import Annotated

import typer

from cxrlines.cli.options import say
from cxrlines.core.files import OutputError, check_ending, check_outputs
from cxrlines.core.text import plural

app = typer.Typer(help="Exchange corrections with Label Studio.", no_args_is_help=True)
ProjectFolder = Annotated[Path, typer.Argument(help="Folder that `cxrlines serve --project` saves corrections in.")]


@app.command("export", epilog="Example: cxrlines corrections export project --label-studio tasks.json")
def export_(
    project: ProjectFolder,
    label_studio: Annotated[
        Path, typer.Option(help="JSON of tasks to write; films and configuration are written beside it.")
    ],
    image_url: Annotated[
        str | None,
        typer.Option(help="Prefix of the images' URLs; default: Label Studio's for local files."),
    ] = None,
) -> None:
    """Export a project's films, corrections and findings as tasks of Label Studio, with its labeling configuration."""
    from cxrlines.corrections.label_studio import beside_json, export_tasks
    from cxrlines.corrections.project import FILMS, FINDINGS, Project

    found = Project.existing(project)
    check_ending("--label-studio", label_studio, "JSON", ".json")
    for name in (FILMS, FINDINGS):  # what lies there already, and the journal and tables, `check_outputs` refuses
        if (project / name).resolve() in label_studio.resolve().parents:
            raise OutputError(f"--label-studio {label_studio}: is in {name}/ of the project", "name another place")
    check_outputs(
        files={"--label-studio": label_studio, "beside --label-studio": beside_json(label_studio, ".xml")},
        folders={"beside --label-studio": beside_json(label_studio, ".films")},
        inputs=[project],
    )
    for path in export_tasks(found, label_studio, image_url):
        typer.echo(path)


@app.command("import", epilog="Example: cxrlines corrections import project --label-studio export.json")
def import_(
    project: ProjectFolder,
    label_studio: Annotated[Path, typer.Option(help="An export of Label Studio, as JSON (not JSON-MIN).")],
    author: Annotated[str | None, typer.Option(help="Who annotated; default: as the export says.")] = None,
) -> None:
    """Take over annotations of Label Studio into a project: all of them, or none."""
    from cxrlines.corrections.label_studio_import import import_tasks
    from cxrlines.corrections.project import Project

    counts = import_tasks(Project.existing(project), label_studio, author)
    say(", ".join(f"{plural(count, 'film')} {what}" for what, count in counts.items()))
