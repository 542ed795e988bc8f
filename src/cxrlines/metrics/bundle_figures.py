"""All findings against ground truth: presence, lines, tips, carina, states."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cxrlines.core.text import plural
from cxrlines.metrics.device_presence import EvaluatedReading, PresenceFigures, presence_figures
from cxrlines.metrics.intervals import RESAMPLES
from cxrlines.metrics.line_figures import INTERVALS, Figure, LineFigures, TipCounts, line_figures, table
from cxrlines.task import Device


@dataclass(frozen=True)
class CarinaFigures:
    """On `films` whose carina is known: the distance of the found one, % of height, and the share found."""

    films: int
    median: Figure
    p95: Figure
    found: Figure


@dataclass(frozen=True)
class FoundFigures:
    """All figures of films that were read."""

    films: int
    patients: int
    presence: dict[Device, PresenceFigures]
    tube_without_tracheostomy: PresenceFigures | None  # ETT, on films without a cannula; None where none shows one
    lines: LineFigures | None  # of films whose lines are known, with states; its carina is theirs
    carina: CarinaFigures  # of all films whose carina is known, guesses among them
    carina_sure: CarinaFigures  # without the guesses

    def text(self) -> str:
        """The figures as tables for people."""
        head = ["presence", "films", "positives", "AUC by presence", "AUC by largest label", "false positives/film"]
        shown = {device.name: figures for device, figures in self.presence.items()}
        if self.tube_without_tracheostomy:
            shown["ETT, no tracheostomy"] = self.tube_without_tracheostomy
        rows = [
            (name, str(f.films), str(f.positives), f.presence.text(3), f.label.text(3), f.false_positives.text())
            for name, f in shown.items()
        ]
        text = [
            f"{plural(self.films, 'film')} of {plural(self.patients, 'patient')}; {INTERVALS}",
            table([head, *rows]),
            "",
        ]
        if self.lines:
            text += [
                f"lines, on {plural(self.lines.films, 'film')}; errors in % of the film's height",
                self.lines.text(),
            ]
        for name, carina in (("all known", self.carina), ("seen, not guessed", self.carina_sure)):
            text.append(
                f"carina, {name} ({plural(carina.films, 'film')}): median {carina.median.text()} %, "
                f"95th percentile {carina.p95.text()} %, found {carina.found.text()}"
            )
        return "\n".join(text)

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON; devices by name, a figure as `{"value", "ci95"}`."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    """Devices by name, tuples as lists and those whose fields have names as objects, however deep."""
    if isinstance(value, dict):
        return {key.name if isinstance(key, Device) else key: _plain(each) for key, each in value.items()}
    if isinstance(value, TipCounts):
        return value._asdict()
    return list(value) if isinstance(value, tuple) else value


def found_figures(films: Sequence[EvaluatedReading], *, resamples: int = RESAMPLES, seed: int = 0) -> FoundFigures:
    """The figures of films that were read, with intervals by patient. `ValueError` without films."""
    if not films:
        raise ValueError("films: none were given; figures need at least one film that was read")
    how = {"resamples": resamples, "seed": seed}
    known = [film.read for film in films if film.lines_known]
    trachea = [film for film in films if not film.tracheostomy]
    return FoundFigures(
        films=len(films),
        patients=len({film.read.patient for film in films}),
        presence={device: presence_figures(films, device, **how) for device in Device},
        tube_without_tracheostomy=presence_figures(trachea, Device.ETT, **how) if len(trachea) < len(films) else None,
        lines=line_figures(known, **how) if known else None,
        carina=_carina(films, **how),
        carina_sure=_carina([film for film in films if film.carina_sure], **how),
    )


def _carina(films: Sequence[EvaluatedReading], **how: int) -> CarinaFigures:
    marked = [replace(f.read, true=(), found=(), states=()) for f in films if f.read.true_carina is not None]
    if not marked:
        return CarinaFigures(0, *[Figure()] * 3)
    figures = line_figures(marked, **how)
    return CarinaFigures(len(marked), figures.carina_median, figures.carina_95, figures.carina_found)
