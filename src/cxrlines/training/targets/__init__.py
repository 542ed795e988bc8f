"""Training targets, a file each, and their registry. A recipe names them under `targets`."""

from cxrlines.training.targets.base import TargetsBase
from cxrlines.training.targets.features import FeatureTarget
from cxrlines.training.targets.labels import LabelTarget
from cxrlines.training.targets.maps import MapTarget
from cxrlines.training.targets.presence import PresenceTarget
from cxrlines.training.targets.soft import SoftTarget


class TargetsSpec(TargetsBase):
    """Towards what a stage trains; the loss is the weighted sum of what is named. This is the registry of targets."""

    labels: LabelTarget | None = None
    features: FeatureTarget | None = None
    soft: SoftTarget | None = None
    presence: PresenceTarget | None = None
    maps: MapTarget | None = None
