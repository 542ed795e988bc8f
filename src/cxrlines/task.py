"""The vocabulary of the task: devices, states, the 11 labels and their order. Nothing else spells a label.

Labels and their order are those of the RANZCR CLiP challenge (`sample_submission.csv`).
"""

from enum import StrEnum


class Device(StrEnum):
    """A tube or line; the value is the prefix of its labels."""

    ETT = "ETT"  # endotracheal tube
    NGT = "NGT"  # nasogastric tube
    CVC = "CVC"  # central venous catheter
    SWAN = "Swan Ganz Catheter"  # pulmonary artery catheter


class State(StrEnum):
    """Where a device sits; the value is the suffix of its labels."""

    ABNORMAL = "Abnormal"  # move it now
    BORDERLINE = "Borderline"  # better moved, still works
    INCOMPLETE = "Incompletely Imaged"  # its tip is off the film
    NORMAL = "Normal"  # leave it
    PRESENT = "Present"  # all that is asked of a Swan-Ganz catheter


def label_of(device: Device, state: State) -> str:
    """The label of a device in a state, e.g. `"ETT - Normal"`; `ValueError` if the task has no such label."""
    name = f"{device} {state}" if device is Device.SWAN else f"{device} - {state}"
    if name not in LABEL_INDEX:
        raise ValueError(f"the task has no label for {device.name} in state {state.name}; it has: {', '.join(LABELS)}")
    return name


_PAIRS = (
    (Device.ETT, State.ABNORMAL),
    (Device.ETT, State.BORDERLINE),
    (Device.ETT, State.NORMAL),
    (Device.NGT, State.ABNORMAL),
    (Device.NGT, State.BORDERLINE),
    (Device.NGT, State.INCOMPLETE),
    (Device.NGT, State.NORMAL),
    (Device.CVC, State.ABNORMAL),
    (Device.CVC, State.BORDERLINE),
    (Device.CVC, State.NORMAL),
    (Device.SWAN, State.PRESENT),
)
LABELS: tuple[str, ...] = tuple(f"{d} {s}" if d is Device.SWAN else f"{d} - {s}" for d, s in _PAIRS)
LABEL_INDEX: dict[str, int] = {name: i for i, name in enumerate(LABELS)}
DEVICE_OF: dict[str, Device] = {name: d for name, (d, _) in zip(LABELS, _PAIRS, strict=True)}
STATE_OF: dict[str, State] = {name: s for name, (_, s) in zip(LABELS, _PAIRS, strict=True)}
LABELS_OF: dict[Device, tuple[str, ...]] = {
    device: tuple(name for name in LABELS if DEVICE_OF[name] is device) for device in Device
}
"""The labels of each device, in label order: 3 ETT, 4 NGT, 3 CVC, 1 Swan-Ganz."""

EXCLUSIVE: tuple[Device, ...] = (Device.ETT,)
"""Devices whose states exclude each other on one film (a patient has one trachea)."""

DEVICE_COLOURS: dict[Device, tuple[int, int, int]] = {
    Device.ETT: (0, 200, 255),
    Device.NGT: (255, 190, 0),
    Device.CVC: (255, 70, 110),
    Device.SWAN: (150, 220, 60),
}
"""RGB, 0-255: a colour a device, told apart also by most colour-blind readers."""


def _shade(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(channel * (0.55 + 0.45 * share)) for channel in colour)
    return red, green, blue


LABEL_COLOURS: dict[str, tuple[int, int, int]] = {
    name: _shade(DEVICE_COLOURS[device], (i + 1) / len(LABELS_OF[device]))
    for device in Device
    for i, name in enumerate(LABELS_OF[device])
}
"""RGB, 0-255: a shade of the device's colour for each state."""


class Landmark(StrEnum):
    """A point of the anatomy that positions are told by."""

    CARINA = "carina"  # where the trachea divides


class MapKind(StrEnum):
    """What a map of a film shows: where a device runs, where it ends, where a point of the anatomy lies."""

    LINE = "line"
    TIP = "tip"
    LANDMARK = "landmark"


MAPS: tuple[tuple[MapKind, Device | Landmark], ...] = (
    *((MapKind.LINE, device) for device in Device),
    *((MapKind.TIP, device) for device in Device),
    *((MapKind.LANDMARK, landmark) for landmark in Landmark),
)
"""The maps a decoder gives, in the order of its channels: 4 lines, 4 tips, the carina."""

STUDY_COLUMN = "StudyInstanceUID"
PATIENT_COLUMN = "PatientID"
