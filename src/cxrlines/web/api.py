"""The HTTP API: its routes, and what they answer."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from cxrlines import __version__
from cxrlines.core.errors import Error, ReadingFault
from cxrlines.core.findings import Findings, PredictionJson
from cxrlines.corrections.correction import Correction
from cxrlines.reading.bundle import EMBEDDED
from cxrlines.reading.reading_pool import Outcome
from cxrlines.reading.results.dicom.film_identifiers import has_identifiers
from cxrlines.task import DEVICES, LABELS_OF, STATE_OF, Device
from cxrlines.web.film_answer import page_words
from cxrlines.web.film_corrections import MOST, save_correction, saved_correction
from cxrlines.web.guard import LOG, Guard
from cxrlines.web.identifiers import PARAMETERS, identifiers_of
from cxrlines.web.kept_films import KeptFilm
from cxrlines.web.problems import MEDIA_TYPE, Problem, problem_of
from cxrlines.web.rendering import Kind
from cxrlines.web.service import Service
from cxrlines.web.uploads import FILM_TYPES, MULTIPART, Upload, film_in, films_in

STATIC = Path(__file__).parent / "static"
EXAMPLE = EMBEDDED / "example.jpg"
JSON, DICOM, PNG = "application/json", "application/dicom", "image/png"
KINDS = {DICOM: Kind.REPORT, PNG: Kind.DRAWING}
FILE = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            **dict.fromkeys(FILM_TYPES, FILE),
            MULTIPART: {"schema": {"type": "object", "additionalProperties": FILE["schema"]}},
        },
    },
}
NAMED = BODY | {"parameters": PARAMETERS}
CORRECTION = {
    "requestBody": {"required": True, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Correction"}}}}
}
FINDINGS = {"$ref": "#/components/schemas/PredictionJson"}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
EMPTY_FILM = Problem(400, "empty", "the film's file is empty", "send the whole file")
PROBLEM = {
    "type": "object",
    "required": ["title", "status", "code", "detail", "way_out"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "to program by"},
        "detail": {"type": "string", "description": "what is wrong"},
        "way_out": {"type": "string", "description": "what to do about it"},
    },
}
MANY = {
    "type": "object",
    "properties": {
        "films": {"type": "array", "items": FINDINGS},
        "problems": {
            "type": "array",
            "items": {
                "allOf": [{"properties": {"film": {"type": "string"}}}, {"$ref": "#/components/schemas/Problem"}]
            },
        },
    },
}
READ: dict[int | str, dict[str, Any]] = PROBLEMS | {
    200: {
        "description": "Findings of a film; of a multipart body {films, problems}",
        "content": {JSON: {"schema": {"oneOf": [FINDINGS, MANY]}}, DICOM: FILE, PNG: FILE},
    }
}


def make_guard(service: Service) -> Guard:
    """The server as an ASGI application."""
    app = FastAPI(
        title="cxrlines",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # behind a proxy with TLS it would redirect to plain http
    )
    app.add_exception_handler(Problem, _as_problem)
    app.add_exception_handler(HTTPException, _as_problem)
    app.add_exception_handler(Exception, _as_problem)
    guard = Guard(app, service.settings, service.tokens, service.counters)
    _add_reading(app, service)
    _add_page(app, service)
    _add_corrections(app, service)
    _add_similar(app, service)
    _add_watching(app, service, guard)

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            summary = service.bundle.notice
            document = get_openapi(title="cxrlines", version=__version__, summary=summary, routes=app.routes)
            document.setdefault("components", {})["schemas"] = _schemas()
            document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return guard


def _schemas() -> dict[str, Any]:
    """The schemas that routes refer to, by name."""
    reference = "#/components/schemas/{model}"
    film = TypeAdapter(PredictionJson).json_schema(mode="serialization", ref_template=reference)
    correction = Correction.model_json_schema(ref_template=reference)
    fields = correction["properties"]
    fields.pop("time")  # the server's
    correction["required"].remove("time")
    fields["name"] = {"type": "string", "description": "what the film's file is called"}
    after = "how many corrections of the film it comes after, as they were asked for; 409 where there are others"
    fields["after"] = {"type": "integer", "description": after}
    definitions = {**film.pop("$defs", {}), **correction.pop("$defs", {})}
    return definitions | {"PredictionJson": film, "Correction": correction, "Problem": PROBLEM}


def _add_reading(app: FastAPI, service: Service) -> None:
    @app.post("/v1/read", responses=READ, openapi_extra=NAMED, summary="Read a film, or many")
    async def read(request: Request) -> Response:
        """Findings as JSON by default; by `Accept` a structured report (application/dicom) or a drawing (image/png)."""
        wanted, identifiers = _wanted(request), identifiers_of(request)
        async with service.intake.body(request) as body:
            uploads, many = films_in(request.headers.get("content-type", ""), body, service.settings.max_films)
            if many:
                if wanted != JSON:
                    raise Problem(406, "not-acceptable", f"many films give {JSON} alone", "send one film as the body")
                return JSONResponse(await _read_all(service, uploads))
            found = await service.read(uploads[0].data)
            if isinstance(found, Exception):
                raise problem_of(found)
            if wanted == JSON:
                return JSONResponse(service.film_json(found, uploads[0].name))
            made = await service.make(KINDS[wanted], uploads[0].data, found, identifiers)
            return Response(made, media_type=wanted)

    described = PROBLEMS | {200: {"description": "The film as a DICOM object", "content": {DICOM: FILE}}}

    @app.post(
        "/v1/film.dcm", responses=described, openapi_extra=NAMED, summary="A film as DICOM", response_class=Response
    )
    async def film_as_dicom(request: Request) -> Response:
        """What the report of a JPEG, PNG or TIFF refers to: the film as a DICOM object of its patient and study."""
        identifiers = identifiers_of(request)
        async with service.intake.body(request) as body:
            upload = film_in(request.headers.get("content-type", ""), body)
            return Response(await service.make(Kind.FILM, upload.data, None, identifiers), media_type=DICOM)


def _add_page(app: FastAPI, service: Service) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/v1/about", responses=PROBLEMS, summary="What reads here, and by which words and colours")
    async def about() -> dict[str, Any]:
        return service.about | {"devices": [_device(device) for device in Device]}

    @app.get("/v1/example.jpg", responses=PROBLEMS, summary="The example film", response_class=Response)
    async def example() -> Response:
        return FileResponse(EXAMPLE, media_type="image/jpeg")

    @app.post("/v1/films", responses=PROBLEMS, openapi_extra=BODY, summary="Read a film and keep it in memory")
    async def film(request: Request) -> dict[str, Any]:
        """For the page: the findings, and what it says of them in words; `id` names the film in the other paths."""
        async with service.intake.body(request) as body:
            upload = film_in(request.headers.get("content-type", ""), body)
            found = await service.read(upload.data)
            if isinstance(found, Exception):
                raise problem_of(found)
            kept = KeptFilm(upload.data, found)
            answer = {"id": service.kept.put(kept), "findings": service.film_json(found, upload.name)}
        identified = await asyncio.to_thread(has_identifiers, kept.source)
        return answer | {"words": page_words(found, service.read_by) | {"identified": identified}}

    @app.delete("/v1/films/{film}", responses=PROBLEMS, summary="Forget a film", status_code=204)
    async def forget(film: str) -> None:
        service.kept.drop(film)

    def making(name: str, kind: Kind, media: str, what: str) -> None:
        described = PROBLEMS | {200: {"description": what, "content": {media: FILE}}}
        place, takes = f"/v1/films/{{film}}/{name}", {"parameters": PARAMETERS} if media == DICOM else {}

        @app.get(place, responses=described, openapi_extra=takes, summary=what, response_class=Response)
        async def made(film: str, request: Request) -> Response:
            kept, identifiers = service.film(film), identifiers_of(request)
            return Response(await service.make(kind, kept.source, kept.findings, identifiers), media_type=media)

    making("pixels.png", Kind.PIXELS, PNG, "The film at its full resolution, 8 bits")
    making("drawing.png", Kind.DRAWING, PNG, "The film with its findings drawn")
    making("report.dcm", Kind.REPORT, DICOM, "The findings as a DICOM structured report")
    making("capture.dcm", Kind.CAPTURE, DICOM, "The film with its findings drawn as a DICOM secondary capture")
    making("film.dcm", Kind.FILM, DICOM, "The film as a DICOM object, which its report refers to")


def _add_corrections(app: FastAPI, service: Service) -> None:
    """Only with a project folder: without one nothing is stored."""
    project = service.project
    if project is None:
        return
    place = "/v1/films/{film}/corrections"

    @app.get(place, responses=PROBLEMS, summary="The latest correction of a film")
    async def saved(film: str) -> dict[str, Any]:
        return await asyncio.to_thread(saved_correction, project, service.film(film))

    @app.put(place, responses=PROBLEMS, openapi_extra=CORRECTION, summary="Save a correction of a film")
    async def save(film: str, request: Request) -> dict[str, Any]:
        body = await service.intake.received(request, MOST)
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            raise Problem(400, "json", "the body is no JSON", "send the correction as JSON") from None
        return await asyncio.to_thread(save_correction, project, service.film(film), values)


def _add_similar(app: FastAPI, service: Service) -> None:
    """Only with an index of known films."""
    similar = service.similar
    if similar is None:
        return

    @app.get("/v1/films/{film}/similar", responses=PROBLEMS, summary="The known films that look most like it")
    async def nearest(film: str) -> dict[str, Any]:
        """Nearest first, none of the film's own patient: `distance` (0 the same, at most 2), `study`, `labels`, and
        `lines` in shares of the film's width and height."""
        return {"films": await similar.of(service.film(film).source)}


def _add_watching(app: FastAPI, service: Service, guard: Guard) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether it takes films", openapi_extra={"security": []})
    async def health() -> Response:
        status = "draining" if guard.draining else "ready"
        return JSONResponse({"status": status}, 503 if guard.draining else 200)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        service.counters.under_way.set(service.intake.under_way)
        service.counters.kept.set(len(service.kept))
        return Response(service.counters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _read_all(service: Service, uploads: list[Upload]) -> dict[str, Any]:
    """What is answered for many films: one that cannot be read costs the others nothing."""
    gate = asyncio.Semaphore(service.settings.processes + 1)  # other requests get their turn between

    async def one(upload: Upload) -> Outcome | Problem:
        if not upload.data:
            return EMPTY_FILM
        async with gate:
            return await service.read(upload.data)

    found = await asyncio.gather(*(one(upload) for upload in uploads))
    films, problems = [], []
    for upload, outcome in zip(uploads, found, strict=True):
        if isinstance(outcome, Findings):
            films.append(service.film_json(outcome, upload.name))
        else:
            problem = outcome if isinstance(outcome, Problem) else problem_of(outcome)
            problems.append({"film": upload.name} | problem.as_dict())
    return {"films": films, "problems": problems}


def _wanted(request: Request) -> str:
    """The media type that `Accept` wants most (by q, then the first) of those that there are; JSON where everything is
    accepted. `Problem` 406 for none."""
    given = [_weighed(part) for part in request.headers.get("accept", "*/*").split(",")]
    for weight, media in sorted(given, key=lambda each: -each[0]):
        if weight <= 0:
            break
        if media in ("*/*", "application/*", JSON):
            return JSON
        if media in KINDS or media == "image/*":
            return PNG if media == "image/*" else media
    raise Problem(
        406, "not-acceptable", "Accept names nothing that can be answered", f"accept {JSON}, {DICOM} or {PNG}"
    )


def _weighed(part: str) -> tuple[float, str]:
    """(q, media type) of a part of `Accept`; a q that is no number counts as 1."""
    media, *parameters = part.lower().split(";")
    weight = next((text.partition("=")[2] for text in map(str.strip, parameters) if text.startswith("q=")), "1")
    return float(weight) if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{0,9})?", weight.strip()) else 1.0, media.strip()


def _device(device: Device) -> dict[str, Any]:
    spec = DEVICES[device]
    labels = [{"label": label, "state": STATE_OF[label].value} for label in LABELS_OF[device]]
    return {"device": device.name, "text": spec.text, "colour": list(spec.colour), "labels": labels}


async def _as_problem(request: Request, error: Exception) -> Response:
    """Whatever the application raises, as a problem document."""
    if isinstance(error, Problem):
        return error.response()
    if isinstance(error, HTTPException):
        way_out = "the paths are in /openapi.json"
        words = {404: ("not-found", "nothing is here"), 405: ("method", "this path takes another method")}
        code, what = words.get(error.status_code, ("refused", "the request cannot be answered"))
        headers: Mapping[str, str] | None = error.headers
        return Problem(error.status_code, code, what, way_out, headers).response()
    if isinstance(error, Error):
        return problem_of(error).response()
    fault = error if isinstance(error, ReadingFault) else ReadingFault.of("the request", error)
    LOG.error("%s", fault)  # where, without the exception's own words
    return problem_of(fault).response()
