"""Films kept in memory: bounded, the oldest dropped, names that cannot be guessed."""

from cxrlines.web.kept_films import KeptFilm, KeptFilms


def film(size: int) -> KeptFilm:
    return KeptFilm(bytes(size), None)  # type: ignore[arg-type]


def test_at_most_so_many_the_least_recent_go():
    kept = KeptFilms(2, 1000)
    first, second = kept.put(film(1)), kept.put(film(1))
    assert kept.get(first) is not None  # now newer than the second
    third = kept.put(film(1))
    assert kept.get(second) is None and len(kept) == 2
    assert kept.get(first) is not None and kept.get(third) is not None


def test_at_most_so_large_but_always_the_last():
    kept = KeptFilms(10, 100)
    first, second = kept.put(film(60)), kept.put(film(60))
    assert kept.get(first) is None and kept.get(second) is not None
    large = kept.put(film(500))
    assert len(kept) == 1 and kept.get(large) is not None
    small = kept.put(film(60))
    assert len(kept) == 1 and kept.get(small) is not None


def test_what_is_dropped_makes_room():
    kept = KeptFilms(10, 100)
    first = kept.put(film(90))
    kept.drop(first)
    kept.drop(first)
    names = [kept.put(film(50)), kept.put(film(50))]
    assert kept.get(first) is None and all(kept.get(name) for name in names)


def test_names_are_long_and_never_the_same():
    kept = KeptFilms(1000, 10**6)
    names = {kept.put(film(1)) for _ in range(200)}
    assert len(names) == 200 and min(map(len, names)) >= 20
