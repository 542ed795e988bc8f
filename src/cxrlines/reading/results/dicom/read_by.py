"""What read a film, and the fingerprint that its results carry."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from cxrlines import __version__
from cxrlines.reading.bundle import Bundle
from cxrlines.reading.results.operating_points import OperatingPoint, operating_points_of


@dataclass(frozen=True)
class ReadBy:
    """What read a film.

    Attributes:
        weights: Identity of the bundle, which fixes the hash of every file of weights.
        engine: What ran its networks, e.g. "onnx" or "torch".
        tta: Views besides the plain one that probabilities are averaged over.
        version: Of cxrlines.
        operating_points: By label, of the labels that have one.
        denied: By `Device.name`, the probability below which the classifier holds a device for absent.
    """

    weights: str
    engine: str
    tta: tuple[str, ...] = ()
    version: str = __version__
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    denied: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, bundle: Bundle, engine: str, tta: tuple[str, ...]) -> Self:
        """What a bundle is, run by an engine, averaged over views."""
        points = operating_points_of(bundle)
        return cls(bundle.identity, engine, tta, operating_points=points, denied=bundle.manifest.denied or {})

    @property
    def fingerprint(self) -> str:
        """64 hex digits: of weights, version, engine and views. The rest follows from the weights."""
        given = [self.weights, self.version, self.engine, *self.tta]
        return hashlib.sha256(json.dumps(given).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Version and hash, as results show them."""
        return f"cxrlines {self.version}, weights {self.weights}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Engine and views, as results name them."""
        return f"engine {self.engine}", f"views averaged: {', '.join(('plain', *self.tta))}"
