"""The epochs of a stage: how many batches they have, of how many films, and which films those are."""

from cxrlines.core.errors import Error
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.loader import FilmSet
from cxrlines.training.sampling import Key, batches_per_epoch, epoch_batches


class Epochs:
    """The epochs of a stage that trains on so many `films`.

    Attributes:
        per_epoch: batches of a whole epoch.
        total: batches, and optimiser steps, of the stage.
        in_batch: films of a batch.

    Raises:
        Error: as `films_in_batch`.
    """

    def __init__(self, films: int, schedule: ScheduleSpec, seed: int) -> None:
        self.schedule, self.seed = schedule, seed
        self.per_epoch = batches_per_epoch(films, schedule.batch)
        self.total = max(1, round(schedule.epochs * self.per_epoch))
        self.in_batch = films_in_batch(films, schedule)

    def left(self, films: FilmSet, epoch: int, start: int) -> list[list[Key]]:
        """The batches of `films` that are trained on in an epoch (from 0), from the `start`-th on, as `epoch_batches`.

        With films of the other batches beside them, where films are mixed.
        """
        stop = min(self.per_epoch, self.total - epoch * self.per_epoch)
        return self._batches(films, epoch, start, stop, neighbour=films.mixing is not None)

    def whole(self, films: FilmSet, epoch: int) -> list[list[Key]]:
        """All batches of an epoch; the films are not mixed."""
        return self._batches(films, epoch, 0, None, neighbour=False)

    def _batches(self, films: FilmSet, epoch: int, start: int, stop: int | None, *, neighbour: bool) -> list[list[Key]]:
        return epoch_batches(
            len(films.films),
            self.schedule.batch,
            seed=self.seed,
            epoch=epoch,
            start=start,
            stop=stop,
            mapped=films.mapped,
            accumulate=self.schedule.accumulate,
            repeats=films.repeats,
            neighbour=neighbour,
        )


def films_in_batch(films: int, schedule: ScheduleSpec) -> int:
    """Films of a batch of a stage with so many; `Error` where they are fewer than its batch, and do not divide."""
    count = min(schedule.batch, films)
    if count % schedule.accumulate:
        raise Error(
            f"schedule.accumulate: {schedule.accumulate} micro-batches do not divide a batch of {count}, all films "
            "there are",
            "leave it out",
        )
    return count
