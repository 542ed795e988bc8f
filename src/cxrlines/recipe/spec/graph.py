"""The graph of a recipe: stages of members, each made from others, none from itself."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Source(NamedTuple):
    """A stage of a member."""

    member: str
    stage: str

    def __str__(self) -> str:
        """`member/stage`."""
        return f"{self.member}/{self.stage}"


def refuse_circles(parents: Mapping[Source, Sequence[Source]]) -> None:
    """`ValueError` where stages, of whichever members, are made from each other in a cycle. `parents`: of each."""
    done: set[Source] = set()

    def down(source: Source, way: tuple[Source, ...]) -> None:
        if source in way:
            cycle = (*way[way.index(source) :], source)
            raise ValueError(
                f"members.{source.member}.stages.{source.stage}: {' -> '.join(map(str, cycle))} is a cycle, "
                "each made from the next; let one of them start from a stage outside it, imagenet, scratch or a "
                "file, or learn soft labels of another"
            )
        if source not in done:
            for before in parents[source]:
                down(before, (*way, source))
            done.add(source)

    for source in parents:
        down(source, ())
