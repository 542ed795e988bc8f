"""Prediction files averaged into one: what `cxrlines ensemble` does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import beside, check_outputs, check_table, write_text
from cxrlines.evaluation.ensemble.average import FittedWeights, How, ensemble, write_predictions
from cxrlines.evaluation.ensemble.weights import fit_weights, nested_fitted
from cxrlines.evaluation.scores import read_predictions, read_truth
from cxrlines.io.folds import FOLD_COLUMN, folds_of, read_folds
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
    weights: Path | None = None,
) -> list[Path]:
    """Average files into `out`; what was written.

    `fitted` with `truth` and `folds`: the files are out of fold, each fold is blended under weights of the others, and
    the weights fitted on all go to `weights`, or beside `out`. Without `truth`, `weights` are read and applied; files
    are then matched to them by order.

    Raises:
        OutputError: a file cannot be written, or would replace an input.
        Error: files that cannot be averaged, or options that do not go together.
    """
    fitted = (weights or beside(out, WEIGHTS)) if how == "fitted" and truth else None
    check_outputs(
        files={"--out": out, "--weights": fitted}, inputs=[*predictions, truth, folds, None if fitted else weights]
    )
    check_table("--out", out, {WEIGHTS: (b"{",)}, STUDY_COLUMN)
    names = [str(path) for path in predictions]
    frames = [read_predictions(path) for path in predictions]
    if how != "fitted":
        if given := [f"--{name}" for name, path in (("truth", truth), ("folds", folds), ("weights", weights)) if path]:
            raise Error(f"{', '.join(given)}: only --how fitted takes weights", "leave it out, or add --how fitted")
        write_predictions(ensemble(frames, how=how, names=names, power=power), out)
        return [out]
    places = [str(place + 1) for place in range(len(frames))]  # the test files have other names than the fitted ones
    if truth is None:
        if weights is None:
            raise Error(
                "--how fitted needs weights",
                "give --truth and --folds, to fit them on out-of-fold predictions, or --weights fitted before",
            )
        found = FittedWeights.from_dict(_read_json(weights))
        write_predictions(ensemble(frames, how="fitted", names=places, weights=found), out)
        return [out]
    if folds is None:
        raise Error("--truth needs --folds as well", "each fold is blended under weights fitted on the others")
    assert fitted is not None
    table = read_truth(truth)
    fold_of = pd.Series(folds_of(table, read_folds(folds)).to_numpy(), table["study"].astype(str), name=FOLD_COLUMN)
    write_predictions(nested_fitted(frames, table, fold_of, names=places), out)
    write_text(fitted, json.dumps(fit_weights(frames, table, names=places).as_dict(), indent=1) + "\n")
    return [out, fitted]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Error(f"{path}: cannot be read ({error.strerror})", "name a file of fitted weights") from None
    except (ValueError, RecursionError):
        raise Error(f"{path}: is no JSON", "name a file of fitted weights, as --how fitted --truth writes it") from None
    if not isinstance(found, dict):
        raise Error(f"{path}: holds {type(found).__name__}", "name a file of fitted weights")
    return found
