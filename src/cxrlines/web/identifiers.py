"""Patient and study of a film that names none, from the headers of a request: addresses are logged, headers are not."""

from starlette.requests import Request

from cxrlines.core.errors import Error
from cxrlines.reading.results.dicom.film_identifiers import Identifiers, check_identifiers
from cxrlines.web.problems import Problem

PATIENT, STUDY = "Patient-ID", "Study-Instance-UID"
PARAMETERS = [
    {"name": name, "in": "header", "schema": {"type": "string", "maxLength": 64}, "description": what}
    for name, what in (
        (PATIENT, "PatientID of a film that has none (JPEG, PNG, TIFF), for DICOM objects"),
        (STUDY, "its StudyInstanceUID"),
    )
]
"""The headers, as OpenAPI describes them."""


def identifiers_of(request: Request) -> Identifiers | None:
    """Those that a request names, if any. `Problem` 400, which repeats none of them."""
    patient_id, study_uid = (request.headers.get(name) for name in (PATIENT, STUDY))
    if patient_id is None and study_uid is None:
        return None
    try:
        check_identifiers(patient_id, study_uid)
    except Error:
        what = f"{PATIENT} and {STUDY} are not both given and valid"
        way_out = "an identifier is 1 to 64 characters of ASCII without a backslash, a UID digits and points"
        raise Problem(400, "identifiers", what, way_out) from None
    return Identifiers(str(patient_id), str(study_uid))
