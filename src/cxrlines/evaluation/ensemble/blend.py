"""Prediction files averaged into one: what `cxrlines ensemble` does."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import beside, check_outputs, check_table, write_text
from cxrlines.evaluation.ensemble.average import FittedWeights, How, ensemble
from cxrlines.evaluation.ensemble.fitted_weights import cross_fitted_blend, fit_weights
from cxrlines.evaluation.predictions import read_predictions, read_truth, write_predictions
from cxrlines.io.folds import folds_of, read_folds
from cxrlines.task import STUDY_COLUMN

WEIGHTS = ".weights.json"
"""Ending of the fitted weights beside the table they were fitted with."""


def blend_files(
    predictions: Sequence[Path],
    out: Path,
    how: How,
    *,
    power: float,
    truth: Path | None = None,
    folds: Path | None = None,
    weights: str | None = None,
) -> list[Path]:
    """Average files into `out`; what was written.

    `fitted` with `truth` and `folds`: the files are out of fold, the blend is cross-fitted, and the weights fitted on
    all films go to `weights`, or beside `out`. Without `truth`, `weights` are read and applied; files are then matched
    to them by order. `weighted`: `weights` are numbers, `2,1`, in the order of the files. `OutputError` for a file that
    cannot be written or would replace an input, `Error` for files that cannot be averaged or options that do not go
    together.
    """
    file = Path(weights) if weights and how == "fitted" else None
    fitted = (file or beside(out, WEIGHTS)) if how == "fitted" and truth else None
    check_outputs(
        files={"--out": out, "--weights": fitted}, inputs=[*predictions, truth, folds, None if fitted else file]
    )
    check_table("--out", out, {WEIGHTS: (b"{",)}, STUDY_COLUMN)
    frames = [read_predictions(path) for path in predictions]
    places = [str(place + 1) for place in range(len(frames))]  # the test files have other names than the fitted ones
    if how != "fitted":
        fixed = _fixed(weights, places) if how == "weighted" else None
        if given := [
            f"--{name}"
            for name, path in (("truth", truth), ("folds", folds), ("weights", None if fixed else weights))
            if path
        ]:
            other = "weighted or fitted" if given == ["--weights"] else "fitted"
            raise Error(f"{', '.join(given)}: --how {how} takes no such option", f"leave it out, or add --how {other}")
        names = places if fixed else [str(path) for path in predictions]
        write_predictions(ensemble(frames, how, names, power=power, weights=fixed), out)
        return [out]
    if truth is None or fitted is None:
        if file is None:
            raise Error(
                "--how fitted needs weights",
                "give --truth and --folds, to fit them on out-of-fold predictions, or --weights fitted before",
            )
        write_predictions(ensemble(frames, how, places, weights=read_weights(file)), out)
        return [out]
    if folds is None:
        raise Error("--truth needs --folds as well", "each fold is blended under weights fitted on the others")
    table = read_truth(truth)
    fold_of = pd.Series(folds_of(table, read_folds(folds)).to_numpy(), table["study"].astype(str))
    write_predictions(cross_fitted_blend(frames, table, fold_of, places), out)
    write_text(fitted, json.dumps(fit_weights(frames, table, places).as_dict(), indent=1) + "\n")
    return [out, fitted]


def _fixed(text: str | None, places: Sequence[str]) -> FittedWeights:
    """Weights `2,1` of the files, by their places. `Error` where they are not as many numbers above 0."""
    try:
        numbers = [float(each) for each in (text or "").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(places) or not all(0 < number < math.inf for number in numbers):
        raise Error(
            f"--weights is {'missing' if text is None else repr(text)} for {len(places)} files",
            "--how weighted needs a number above 0 for each file, e.g. 2,1",
        )
    return FittedWeights.fixed(dict(zip(places, numbers, strict=True)))


def read_weights(path: Path) -> FittedWeights:
    """The fitted weights of a JSON file; `Error` names the file where it holds none."""
    way_out = "name a file of fitted weights, as --how fitted --truth writes it"
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})", way_out) from None
    except (ValueError, RecursionError):
        raise Error(f"{path}: is no JSON", way_out) from None
    if not isinstance(content, dict):
        raise Error(f"{path}: holds {type(content).__name__}", way_out)
    return FittedWeights.from_dict(content)
