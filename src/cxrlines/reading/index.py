"""Retrieval: an index of films by embedding, and the nearest of them to a film, never of its own patient.

An index is one safetensors file: `embeddings` (n, c) float16 of length 1, `films` the JSON of each film's labels and
lines (UTF-8 bytes), and in the header the format and the model that made the embeddings. Nothing in it is unpickled.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.core.nearest import nearest_rows
from cxrlines.io.annotations import Line
from cxrlines.io.dicom.header import parse
from cxrlines.io.films import kind_of, read_bytes
from cxrlines.io.patients import (
    BARE,
    VARIABLE,
    as_known,
    foreign,
    is_phantom,
    is_site_token,
    key_name,
    names_in,
    site_key_file,
    tokens,
)
from cxrlines.io.rows import PLACEHOLDERS
from cxrlines.io.studies import Studies
from cxrlines.io.tables import DataFolder
from cxrlines.reading.bundle import NOTICE, Bundle
from cxrlines.reading.reader import Progress, Reader
from cxrlines.task import DEVICE_OF, LABEL_INDEX

FORMAT = 1
_META = "cxrlines"  # the entry of the file's header that holds our texts
EXACT = 100_000
"""Films up to which the search is plain NumPy; beyond, it goes through faiss."""


class IndexFileError(Error):
    """An index that cannot be made, trusted or searched; the message names the file and the way out."""


@dataclass(frozen=True, eq=False)
class IndexedFilm:
    """A film of the index, with its labels and lines.

    Attributes:
        study: Its name.
        patient: The token of its patient, `io.patients`.
        key: The key of its pixels, `reader.Embedded.key`.
        labels: Those that are 1, in label order; None where the film has no labels.
        lines: Its annotated lines, points (n, 2) [x, y] as fractions of the film's width and height, 0 to 1.
    """

    study: str
    patient: str
    key: str
    labels: tuple[str, ...] | None
    lines: tuple[Line, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values: places to a ten-thousandth of the film."""
        lines = [
            {"device": DEVICE_OF[line.label].name, "label": line.label, "path": np.round(line.points, 4).tolist()}
            for line in self.lines
        ]
        labels = None if self.labels is None else list(self.labels)
        return {"study": self.study, "patient": self.patient, "key": self.key, "labels": labels, "lines": lines}

    def text(self) -> str:
        """Labels and lines in words."""
        known = "no labels" if self.labels is None else ", ".join(self.labels) or "no device"
        return "\n".join([known, *(f"  line of {line.label}: {_where(line.points)}" for line in self.lines)])


@dataclass(frozen=True)
class Neighbour:
    """A film near a query; `distance` is 1 - cosine of their embeddings: 0 the same, 1 nothing in common, at most 2."""

    film: IndexedFilm
    distance: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the keys of patient and pixels stay inside."""
        known = {name: value for name, value in self.film.as_dict().items() if name not in ("patient", "key")}
        return {"distance": round(self.distance, 4)} | known


@dataclass(frozen=True, eq=False)
class Index:
    """Films with their embeddings, in the order of their studies.

    Attributes:
        films: n of them, each study once.
        embeddings: (n, c) float16, each of length 1.
        embedder: The model that made them, see `embedder_of`.
        left_out: Study -> why its film could not be read, when the index was built; not in the file.
    """

    films: tuple[IndexedFilm, ...]
    embeddings: np.ndarray
    embedder: str
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self._faiss  # an index that cannot be searched here is refused at once

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        """The rows of each patient's films, by token."""
        rows: dict[str, list[int]] = {}
        for row, film in enumerate(self.films):
            rows.setdefault(film.patient, []).append(row)
        return rows

    @cached_property
    def _faiss(self) -> Any:
        """The index of faiss; None where plain NumPy searches."""
        return _faiss_of(self.embeddings) if len(self.films) > EXACT else None

    def nearest(
        self, queries: np.ndarray, k: int = 5, exclude_patients: Sequence[Collection[str]] | None = None
    ) -> list[list[Neighbour]]:
        """The k nearest films of each query, nearest first, fewer where no more are left; of ties by study.

        Args:
            queries: (q, c) floating point, of length 1: `reader.Embedded.vector`.
            exclude_patients: For each query the tokens of patients whose films are none of its neighbours, see
                `patients_of`.

        Raises:
            IndexFileError: Embeddings of another length, or a count below 1.
        """
        query = np.asarray(queries, np.float32)
        if query.ndim != 2 or query.shape[1] != self.embeddings.shape[1]:
            raise IndexFileError(
                f"queries are {query.shape}",
                f"the index holds embeddings of {self.embeddings.shape[1]} numbers, give (queries, numbers) from "
                "the reader of the bundle that it was built with",
            )
        if k < 1:
            raise IndexFileError(f"count is {k}", "ask for 1 film or more")
        excluded = [()] * len(query) if exclude_patients is None else exclude_patients
        if len(excluded) != len(query):
            raise IndexFileError(f"exclude_patients is for {len(excluded)} queries, {len(query)} are given", "one each")
        excluded_rows = [
            np.array([row for patient in set(patients) for row in self._rows.get(patient, ())], int)
            for patients in excluded
        ]
        if self._faiss is None:

            def mask(places: np.ndarray) -> np.ndarray:
                """(len(places), films) bool: the films that are excluded for each of some queries."""
                out = np.zeros((len(places), len(self.films)), bool)
                for row, place in zip(out, places, strict=True):
                    row[excluded_rows[place]] = True
                return out

            rows, products = nearest_rows(query, self.embeddings, k, mask)
        else:
            rows, products = self._by_faiss(query, k, excluded_rows)
        return [
            [Neighbour(self.films[row], 1 - float(product)) for row, product in zip(*pair, strict=True) if row >= 0]
            for pair in zip(rows, products, strict=True)
        ]

    def patients_of(self, *, key: str = "", study: str = "", patient: str = "") -> set[str]:
        """The tokens of the patients of a film: of those indexed with the same pixels, or under the same study.

        And those by which a patient, an identifier, may be indexed.
        """
        own = {film.patient for film in self.films if film.key == key or film.study == study}
        return own.union(*as_known([patient], names_in(self._rows))) if patient else own

    def own_patients(self, film: bytes, key: str, *, study: str = "", patient: str = "") -> set[str]:
        """`patients_of` a film's file and the key of its pixels: also by the study and patient that a DICOM file names.

        `study` and `patient` are what else it may be known by.
        """
        own_study, own_patient = _dicom_names(film)
        own = self.patients_of(key=key, study=own_study, patient=own_patient)
        return own | self.patients_of(study=study, patient=patient)

    def save(self, path: Path) -> None:
        """Write the index as one file, atomically."""
        text = json.dumps([film.as_dict() for film in self.films], separators=(",", ":")).encode()
        arrays = {"embeddings": self.embeddings, "films": np.frombuffer(text, np.uint8)}
        meta = {"format": f"cxrlines index {FORMAT}", "embedder": self.embedder, "notice": NOTICE}
        with replacing(path) as aside:
            aside.write_bytes(save(arrays, {_META: json.dumps(meta, sort_keys=True)}))

    def _by_faiss(self, query: np.ndarray, k: int, excluded: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest_rows`; `excluded` are rows for each query.

        Enough more are asked for that k stay when the excluded ones are gone.
        """
        wanted = min(k + max(map(len, excluded), default=0), len(self.films))
        products, rows = self._faiss.search(np.ascontiguousarray(query), wanted)
        rows, products = np.asarray(rows, np.int64), np.asarray(products, np.float32)
        for found, cosines, others in zip(rows, products, excluded, strict=True):
            out = np.isin(found, others)
            found[out], cosines[out] = -1, -np.inf
        order = np.lexsort((rows, -products), axis=1)[:, :k]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(products, order, 1)


def build_index(
    bundle: Bundle, data: DataFolder[Studies], *, batch_size: int = 8, progress: Progress | None = None
) -> Index:
    """The index of a folder's films, as a bundle's first model sees them; the order of its studies does not matter.

    A DICOM film that no table gives a patient is of the one that its file names. Films that cannot be read are left
    out, see `Index.left_out`; `IndexFileError` if none is left, or patients are named under another site's key.
    """
    studies = sorted(data.studies, key=lambda study: study.id)
    named = names_in(study.patient for study in studies if is_site_token(study.patient))
    if others := foreign(named):
        what = f"{data.root} names patients under the key {', '.join(sorted(others))}, which is not that in"
        raise IndexFileError(f"{what} {site_key_file()}", f"name the file of that key by {VARIABLE}")
    reader = Reader(bundle, batch_size=batch_size)
    films, vectors, left_out = [], [], {}
    own = key_name(phantom=is_phantom(data))
    found = reader.embed([study.film for study in studies], progress)
    for study, embedded in zip(studies, found, strict=True):
        if isinstance(embedded, Exception):
            left_out[study.id] = str(embedded)
            continue
        labels = tuple(label for label, value in study.labels.items() if value == 1) if study.labels else None
        size = np.array(embedded.shape[::-1])
        lines = tuple(Line(line.label, (line.points + 0.5) / size) for line in data.lines.get(study.id, ()))
        of_file = _dicom_names(read_bytes(Path(study.film)))[1] if study.patient == study.id else ""
        patient = of_file or study.patient
        token = patient if is_site_token(patient) else tokens([patient], own)[0]
        films.append(IndexedFilm(study.id, token, embedded.key, labels, lines))
        vectors.append(embedded.vector)
    if not films:
        first = next(iter(left_out.values()), "the data has no films")
        raise IndexFileError(f"{data.root}: none of {len(studies)} films could be read", f"the first: {first}")
    return Index(tuple(films), np.stack(vectors).astype(np.float16), embedder_of(bundle), left_out)


def open_index(path: Path, bundle: Bundle | None = None) -> Index:
    """The index of a file.

    Raises:
        IndexFileError: There is none, it is cut short, of another kind or newer; or, if a bundle is given, it was made
            by another model; its patients are named under another site's key, so that a film's own patient would not
            be recognised; or it has over `EXACT` films and faiss is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise IndexFileError(
            f"{path}: there is no index",
            f"`cxrlines index DATA --bundle BUNDLE --out {path.with_suffix('.safetensors')}` makes one",
        )
    try:
        file: Any = safe_open(path, framework="numpy")
        meta = json.loads((file.metadata() or {}).get(_META, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        what = f"{path} ({path.stat().st_size} bytes) is no complete safetensors file: {error}. It was cut off, or is"
        raise IndexFileError(f"{what} of another kind", "copy or make it again") from error
    meta = meta if isinstance(meta, dict) else {}
    _check_format(path, str(meta.get("format", "")))
    embedder = str(meta.get("embedder", ""))
    if bundle is not None and embedder != embedder_of(bundle):
        raise IndexFileError(
            f"{path} was made with another model than that of {bundle.folder}: their embeddings cannot be compared",
            f"name the bundle it was made with, or make one: `cxrlines index DATA --bundle {bundle.folder} --out FILE`",
        )
    films, embeddings = _read_films(path, file)
    if others := foreign(names_in(film.patient for film in films)):
        raise IndexFileError(
            f"{path} names patients under the key {', '.join(sorted(others))}, which is not that in {site_key_file()}: "
            "films of a query's own patient would not be recognised",
            f"name the file of that key by {VARIABLE}, or index a table of patients' own identifiers",
        )
    return Index(films, embeddings, embedder)


def _check_format(path: Path, given: str) -> None:
    """`IndexFileError` unless an index's header says the format that this version reads."""
    name, _, version = given.rpartition(" ")
    if name != "cxrlines index" or not version.isdigit():
        raise IndexFileError(
            f"{path} is no index of films but some other safetensors file", "`cxrlines index` makes one"
        )
    if int(version) != FORMAT:
        raise IndexFileError(
            f"{path}: format {version} is not the one this cxrlines reads ({FORMAT})", "update cxrlines"
        )


def _read_films(path: Path, file: Any) -> tuple[tuple[IndexedFilm, ...], np.ndarray]:
    """The films of an open index, and their embeddings (n, c) float16; `IndexFileError` where they are damaged."""
    try:
        embeddings, text = (file.get_tensor(name) for name in ("embeddings", "films"))
        if embeddings.dtype != np.float16 or embeddings.ndim != 2 or text.dtype != np.uint8:
            raise ValueError(f"embeddings are {embeddings.dtype} {embeddings.shape}, films {text.dtype}")
        if not np.isfinite(embeddings).all():
            raise ValueError("embeddings are not all finite")
        films = tuple(_film_of(values) for values in json.loads(text.tobytes()))
        if len(films) != len(embeddings) or not films:
            raise ValueError(f"{len(films)} films with {len(embeddings)} embeddings")
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise IndexFileError(f"{path}: {what}", "the file was edited or is invalid; make the index again") from error
    return films, embeddings


def embedder_of(bundle: Bundle) -> str:
    """16 hex digits of what makes a bundle's embeddings: its first model's weights and what that model sees."""
    manifest = bundle.manifest
    first = manifest.models[0]
    parts = [manifest.files[first.file].sha256, first.config, manifest.store.model_dump(), bundle.sizes[0]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _dicom_names(film: bytes) -> tuple[str, str]:
    """StudyInstanceUID and PatientID of a film's file; each empty where there is none, or it is no DICOM file."""
    if kind_of(film) != "DICOM":
        return "", ""
    header = parse(film, ("TransferSyntaxUID", "StudyInstanceUID", "PatientID"))
    patient = header.text("PatientID")
    return header.text("StudyInstanceUID"), "" if patient.lower() in PLACEHOLDERS else patient


def _film_of(values: dict[str, Any]) -> IndexedFilm:
    labels = None if values["labels"] is None else tuple(values["labels"])
    lines = tuple(Line(line["label"], np.array(line["path"], np.float64)) for line in values["lines"])
    if wrong := [label for label in (*(labels or ()), *(line.label for line in lines)) if label not in LABEL_INDEX]:
        raise ValueError(f"label {wrong[0]!r} is not one of this task")
    for line in lines:
        if line.points.ndim != 2 or line.points.shape[1] != 2 or not np.isfinite(line.points).all():
            raise ValueError(f"a line of study {values['study']!r} is no list of points")
    patient = str(values["patient"])
    patient = patient if ":" in patient else f"{BARE}:{patient}"  # as cxrlines 0.1 wrote it
    return IndexedFilm(str(values["study"]), patient, str(values["key"]), labels, lines)


def _where(points: np.ndarray) -> str:
    """Where a line begins and ends, in words; points (n, 2) as of `IndexedFilm.lines`."""

    def place(point: np.ndarray) -> str:
        across, down = np.round(100 * point).astype(int)
        return f"{across} % across and {down} % down"

    return f"from {place(points[0])} to {place(points[-1])} of the film"


def _faiss_of(embeddings: np.ndarray) -> Any:
    """A faiss index that keeps and multiplies the very float16 numbers: as exact as the plain search, and faster."""
    try:
        import faiss
    except ImportError as error:
        raise IndexFileError(
            f"the index has {len(embeddings):,} films",
            f'beyond {EXACT:,} the search needs faiss: pip install "cxrlines[faiss]"',
        ) from error
    count, numbers = embeddings.shape
    index = faiss.IndexScalarQuantizer(numbers, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, count, 65536):
        index.add(embeddings[start : start + 65536].astype(np.float32))
    return index
