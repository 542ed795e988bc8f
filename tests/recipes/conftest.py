"""A tiny data set and recipe on which whole runs take seconds."""

from pathlib import Path

import pytest

from cxrlines.phantom.write import write_phantom

RECIPE = """
name: tiny
about: Three stages on a handful of films.
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
defaults:
  schedule: {batch: 4, lr: 0.001, epochs: 1}
members:
  staged:
    backbone: resnet10t
    stages:
      teacher: {start: scratch, films: {which: annotated, view: overlay}}
      student: {start: scratch, films: {which: annotated}, targets: {features: {of: teacher}}}
      finetune: {start: student, schedule: {epochs: 2, ema: 0.9}}
  plain:
    backbone: resnet10t
    dropout: 0.5
    stages:
      only: {start: scratch, films: {augment: hotwater}, schedule: {epochs: 3}}
"""


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(folder, studies=32, test=8, seed=0, size=96, balance="even", annotated=0.6, workers=1)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path
