"""What is said of a recipe before a film is decoded."""

import pytest
import torch

from cxrlines.recipe.run.checks import slow_precision
from cxrlines.recipe.spec.load import load_recipe

X86 = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("precision", "processor", "gpu", "slow"),
    [
        ("bf16", X86, False, True),
        ("bf16", X86 | {"avx512_bf16": True}, False, False),
        ("bf16", X86 | {"amx_bf16": True}, False, False),
        ("bf16", {"architecture": "aarch64"}, False, False),
        ("bf16", X86, True, False),
        ("32", X86, False, False),
        ("auto", X86, False, False),
    ],
)
def test_bf16_that_a_processor_emulates_is_said_to_be_slow(monkeypatch, precision, processor, gpu, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    said = slow_precision(load_recipe("embedded", [f"defaults.schedule.precision={precision}"]))
    assert ("ten times" in said) if slow else said is None


def test_an_older_pytorch_that_cannot_tell_says_nothing(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert slow_precision(load_recipe("embedded", ["defaults.schedule.precision=bf16"])) is None
