"""The quick bundle: backbone and head of the embedded reader, by the recipe `embedded-quick` a cheaper decoder."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.reader import load_reader
from cxrlines.reading.training_patients import training_patients

QUICK = Path(__file__).parents[2] / "bundles/quick"
EXAMPLE = EMBEDDED / "example.jpg"
NEAR = 0.02
"""Of the film's height."""


def test_backbone_and_head_are_the_embedded_readers_to_the_last_bit() -> None:
    quick, embedded = (load_bundle(folder) for folder in (QUICK, EMBEDDED))
    assert quick.manifest.labels == embedded.manifest.labels and quick.map_names == embedded.map_names
    one, other = (load_file(bundle.folder / bundle.manifest.models[0].file) for bundle in (quick, embedded))
    shared = [name for name in other if not name.startswith("decoder.")]
    assert len(shared) > 200 and all(np.array_equal(one[name], other[name]) for name in shared)
    size = {
        name: sum(values.size for key, values in tensors.items() if key.startswith("decoder."))
        for name, tensors in (("quick", one), ("embedded", other))
    }
    assert size["quick"] < size["embedded"] / 3


def test_it_says_what_it_learnt_from() -> None:
    quick, embedded = (load_bundle(folder) for folder in (QUICK, EMBEDDED))
    assert quick.manifest.meta["recipe"] == "embedded-quick" and "For research only" in quick.notice
    seen, before = training_patients(quick), training_patients(embedded)
    assert seen and before and before <= seen


def test_it_follows_the_lines_of_the_example_film_as_the_embedded_reader_does() -> None:
    quick, embedded = (load_reader(folder).read(EXAMPLE) for folder in (QUICK, EMBEDDED))
    assert [line.device for line in quick.lines] == [line.device for line in embedded.lines] and quick.lines
    for one, other in zip(quick.lines, embedded.lines, strict=True):
        assert np.hypot(*(one.path[-1] - other.path[-1])) < NEAR * embedded.film_shape[0]
