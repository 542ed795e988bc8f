"""The vocabulary of the task as data: devices, their states, labels and heatmaps. Nothing else spells a label.

To add a device: a member of `Device` and its row in `DEVICES` (see CONTRIBUTING). Everything else counts and orders by
what stands here. Labels and order of the first four devices are those of the RANZCR CLiP challenge
(`sample_submission.csv`).
"""

from dataclasses import dataclass
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
    PRESENT = "Present"  # of a device whose position is not labelled


@dataclass(frozen=True)
class DeviceSpec:
    """What is to know of a device.

    Attributes:
        text: Its name in plain words.
        states: Its labels' states, in label order.
        colour: RGB, 0-255, distinguishable from the others by most colour-blind readers too.
        exclusive: Whether its states exclude each other on one film (a patient has one trachea).
        several: Whether a film may show several of it.
        mapped: Whether a decoder maps its line and its tip.
        optional: Whether a label table may lack its columns; its labels are then `UNKNOWN`.
        separator: Between prefix and state in its labels.
    """

    text: str
    states: tuple[State, ...]
    colour: tuple[int, int, int]
    exclusive: bool = False
    several: bool = False
    mapped: bool = True
    optional: bool = False
    separator: str = " - "


DEVICES: dict[Device, DeviceSpec] = {
    Device.ETT: DeviceSpec(
        "endotracheal tube", (State.ABNORMAL, State.BORDERLINE, State.NORMAL), (0, 200, 255), exclusive=True
    ),
    Device.NGT: DeviceSpec(
        "nasogastric tube",
        (State.ABNORMAL, State.BORDERLINE, State.INCOMPLETE, State.NORMAL),
        (255, 190, 0),
    ),
    Device.CVC: DeviceSpec(
        "central venous catheter",
        (State.ABNORMAL, State.BORDERLINE, State.NORMAL),
        (255, 70, 110),
        several=True,
    ),
    Device.SWAN: DeviceSpec("Swan-Ganz catheter", (State.PRESENT,), (150, 220, 60), separator=" "),
}

UNKNOWN = -1
"""Of a label (int8) of which a table says nothing: left out of losses, folds and figures."""

_PAIRS = tuple((device, state) for device, spec in DEVICES.items() for state in spec.states)
LABELS: tuple[str, ...] = tuple(f"{device}{DEVICES[device].separator}{state}" for device, state in _PAIRS)
LABEL_INDEX: dict[str, int] = {name: i for i, name in enumerate(LABELS)}
DEVICE_OF: dict[str, Device] = {name: device for name, (device, _) in zip(LABELS, _PAIRS, strict=True)}
STATE_OF: dict[str, State] = {name: state for name, (_, state) in zip(LABELS, _PAIRS, strict=True)}
LABELS_OF: dict[Device, tuple[str, ...]] = {
    device: tuple(name for name in LABELS if DEVICE_OF[name] is device) for device in Device
}
"""The labels of each device, in label order."""

EXCLUSIVE: tuple[Device, ...] = tuple(device for device, spec in DEVICES.items() if spec.exclusive)
DEVICE_COLOURS: dict[Device, tuple[int, int, int]] = {device: spec.colour for device, spec in DEVICES.items()}


def label_of(device: Device, state: State) -> str:
    """The label of a device in a state, e.g. `"ETT - Normal"`; `ValueError` if the task has no such label."""
    if state not in DEVICES[device].states:
        raise ValueError(f"the task has no label for {device.name} in state {state.name}; it has: {', '.join(LABELS)}")
    return f"{device}{DEVICES[device].separator}{state}"


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
    """A keypoint of the anatomy that positions are measured from."""

    CARINA = "carina"  # where the trachea divides


class MapKind(StrEnum):
    """What a heatmap shows: where a device runs, where its tip is, where a landmark is."""

    LINE = "line"
    TIP = "tip"
    LANDMARK = "landmark"


MAPPED: tuple[Device, ...] = tuple(device for device, spec in DEVICES.items() if spec.mapped)
"""The devices of which there are heatmaps."""
MAPS: tuple[tuple[MapKind, Device | Landmark], ...] = (
    *((MapKind.LINE, device) for device in MAPPED),
    *((MapKind.TIP, device) for device in MAPPED),
    *((MapKind.LANDMARK, landmark) for landmark in Landmark),
)
"""The heatmaps a decoder gives, in the order of its channels."""
MAP_NAMES: dict[str, tuple[MapKind, Device | Landmark]] = {f"{kind} {what.name}": (kind, what) for kind, what in MAPS}
"""Each heatmap by its name in files, e.g. `"line CVC"`, in the same order."""

RANZCR_DEVICES = (Device.ETT, Device.NGT, Device.CVC, Device.SWAN)
RANZCR_LABELS: tuple[str, ...] = tuple(label for label in LABELS if DEVICE_OF[label] in RANZCR_DEVICES)
RANZCR_MAPS: tuple[str, ...] = tuple(
    name for name, (_, what) in MAP_NAMES.items() if what in (*RANZCR_DEVICES, Landmark.CARINA)
)
"""Labels and heatmaps of models whose files do not name theirs."""

STUDY_COLUMN = "StudyInstanceUID"
PATIENT_COLUMN = "PatientID"
