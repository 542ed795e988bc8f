"""Errors cross processes: each is unpickled as it was pickled, with its words."""

import importlib
import inspect
import pickle
import pkgutil

import cxrlines
from cxrlines.core.errors import Error


def kinds(kind: type[Error]) -> set[type[Error]]:
    return {kind} | {deeper for below in kind.__subclasses__() for deeper in kinds(below)}


def test_every_error_of_the_package_is_unpickled_as_it_was():
    for module in pkgutil.walk_packages(cxrlines.__path__, "cxrlines."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {kind for kind in kinds(Error) if kind.__module__.startswith("cxrlines.")}
    assert len(found) > 20
    for kind in found:
        needed = [
            each for each in inspect.signature(kind).parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD
        ]
        error = kind(*[each.name for each in needed])
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
