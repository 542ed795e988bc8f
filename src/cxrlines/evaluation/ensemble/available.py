"""The average of members that do not all predict the same films: each film's, over those that predict it."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

Average = Callable[[Sequence[pd.DataFrame], Sequence[str]], pd.DataFrame]
"""Averages predictions of the same films by the members of these names."""


def average_available(frames: Mapping[str, pd.DataFrame], average: Average) -> tuple[pd.DataFrame, pd.Series]:
    """The average by film of the members that predict it, and how many these are (study -> int).

    Films that the same members predict are averaged together. Where all members predict all films the rows are in the
    order of the first; else in that of the studies' names.
    """
    there = pd.DataFrame({name: pd.Series(True, frame["study"].astype(str)) for name, frame in frames.items()})
    there = there.notna()
    if there.to_numpy().all():
        return average(list(frames.values()), list(frames)), there.sum(axis=1)
    parts = []
    for present, films in there.groupby(list(frames), sort=False):
        names = [name for name, is_there in zip(frames, present, strict=True) if is_there]
        some = [frames[name][frames[name]["study"].astype(str).isin(set(films.index))] for name in names]
        parts.append(average(some, names))
    return pd.concat(parts).sort_values("study", ignore_index=True), there.sum(axis=1)
