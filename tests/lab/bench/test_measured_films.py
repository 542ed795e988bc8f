"""The films that speed is measured on."""

from cxrlines.io.films import read_film
from cxrlines.lab.bench import measured_films


def test_the_films_made_are_jpegs_of_their_size(monkeypatch):
    monkeypatch.setattr(measured_films, "HEIGHT", 300)
    monkeypatch.setattr(measured_films, "WIDTH", 250)
    one, other = measured_films.film_files(2, None)
    film = read_film(one)
    assert film.format == "JPEG" and film.pixels.shape == (300, 250)
    assert one != other and list(measured_films.film_files(1, None)) == [one]
