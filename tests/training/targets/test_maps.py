"""Of which films the heatmap of a device is known: an empty map teaches that nothing is there."""

from types import SimpleNamespace

import numpy as np

from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, MAPS, Device, Landmark, MapKind
from cxrlines.training.targets import MapTarget


def known(labels: dict[str, float], shown: dict[Device, bool], annotated: bool = True) -> set[tuple[MapKind, Device]]:
    """The maps known of a film whose labels are 0 but for `labels`; `shown`: drawn devices, and if their tip is seen.

    Beside it is a film with every line, so that one always has something to teach.
    """
    truth = np.zeros((2, len(LABELS)), np.float32)
    for label, value in labels.items():
        truth[0, LABEL_INDEX[label]] = value
    films = SimpleNamespace(
        labels=truth,
        annotated=np.array([annotated, True]),
        shown=np.array([[device in shown for device in Device], [True] * len(Device)]),
        tips_seen=np.array([[shown.get(device, True) for device in Device], [True] * len(Device)]),
        landmarks=np.full((2, len(Landmark), 2), np.nan),
    )
    mapped = MapTarget().data(films).arrays["mapped"][0]  # type: ignore[arg-type]
    return {(kind, Device(what)) for (kind, what), one in zip(MAPS, mapped, strict=True) if one}


def of(*devices: Device) -> set[tuple[MapKind, Device]]:
    return {(kind, device) for kind in (MapKind.LINE, MapKind.TIP) for device in devices}


def test_a_device_that_is_there_but_was_not_drawn_teaches_no_empty_map() -> None:
    there = {"ETT - Normal": 1, "CVC - Normal": 1}
    assert known(there, {Device.CVC: True}) == of(Device.CVC, Device.NGT, Device.SWAN)
    assert known(there, {Device.CVC: True, Device.ETT: True}) == of(*Device)
    assert known(there, {Device.CVC: False}) == of(Device.CVC, Device.NGT, Device.SWAN) - {(MapKind.TIP, Device.CVC)}


def test_an_empty_map_is_known_only_where_all_labels_say_that_the_device_is_absent() -> None:
    assert known({}, {}) == of(*Device)
    assert known({"ETT - Normal": np.nan}, {}) == of(Device.NGT, Device.CVC, Device.SWAN)
    assert known(dict.fromkeys(LABELS_OF[Device.ETT], np.nan), {}) == of(Device.NGT, Device.CVC, Device.SWAN)
    assert known(dict.fromkeys(LABELS_OF[Device.ETT], np.nan), {Device.ETT: True}) == of(*Device)


def test_of_a_film_without_annotation_no_line_is_known() -> None:
    assert known({}, {}, annotated=False) == set()
