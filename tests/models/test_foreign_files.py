import argparse
import os
import pickle
import random
import shlex
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from cxrlines.cli import app as cli
from cxrlines.models.foreign_files import convert, read_public
from cxrlines.models.weights import WeightsError


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(3000.0).reshape(2, 3, 500), "b": torch.tensor(7), "c": torch.ones(3).half()}


def same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> bool:
    return list(got) == list(want) and all(torch.equal(got[n], t) and got[n].dtype == t.dtype for n, t in want.items())


@pytest.mark.parametrize("modern", [True, False])
def test_pytorch_files_of_both_makes_are_read(modern: bool, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=modern)
    got, form = read_public(tmp_path / "w.pth")
    assert form == "PyTorch" and same(got, tensors)


def test_safetensors_are_known_by_content_whatever_the_header_begins_with(tmp_path: Path) -> None:
    firsts = set()
    for length in range(0, 256, 8):  # a header's length is its first byte, and 0x80 is also how a pickle begins
        path = tmp_path / "w.bin"
        save_file({"a": torch.ones(2)}, path, metadata={"pad": "x" * length})
        firsts.add(path.read_bytes()[0])
        got, form = read_public(path)
        assert form == "safetensors" and torch.equal(got["a"], torch.ones(2))
    assert 0x80 in firsts


def test_nested_dictionaries_are_flattened_and_the_rest_is_passed_over(tmp_path: Path) -> None:
    one, two = torch.ones(1), torch.zeros(2)
    inner = {"x.y": one, "n": 3}
    stored = {
        "epoch": 4,
        "state_dict": inner,
        "again": inner,
        "ema": {"module": {"z": nn.Parameter(two)}},
        "optimizer": {"state": {0: {"exp_avg": one}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "pytorch-lightning_version": "2.6.6",
    }
    stored["itself"] = stored
    torch.save(stored, tmp_path / "w.ckpt")
    got, form = read_public(tmp_path / "w.ckpt")
    assert form == "Lightning" and same(got, {"state_dict.x.y": one, "ema.module.z": two})
    assert not any(t.requires_grad for t in got.values())


def test_tensors_outlive_their_file(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    before = path.read_bytes()
    got, _ = read_public(path)
    assert path.read_bytes() == before
    with path.open("r+b") as file:
        file.write(b"\0" * len(before))
    assert same(got, tensors)


class Trap:
    """Makes a folder when it is unpickled the unsafe way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"mkdir {shlex.quote(str(self.marker))}",)


@pytest.mark.parametrize("make", ["zip", "legacy", "protocol 2", "protocol 4"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(make: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "sprung", tmp_path / "w.pth"
    stored = {"a": torch.ones(3), "trap": Trap(marker)}
    if make in ("zip", "legacy"):
        torch.save(stored, path, _use_new_zipfile_serialization=make == "zip")
    else:
        path.write_bytes(pickle.dumps({"trap": Trap(marker)}, protocol=int(make[-1])))
    with pytest.raises(WeightsError, match=r"w\.pth.*(posix|nt)\.system"):
        read_public(path)
    assert not marker.exists()
    torch.load(path, weights_only=False) if make in ("zip", "legacy") else pickle.loads(path.read_bytes())  # noqa: S301
    assert marker.exists()  # so the trap was live


@pytest.mark.parametrize("modern", [True, False])
def test_what_a_refusal_advises_makes_a_file_that_is_read(
    modern: bool, tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it's $HOME.ckpt"
    stored = {"state_dict": tensors, "hyper_parameters": argparse.Namespace(lr=0.1), "more": [range, Path("x")]}
    torch.save(stored, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match=r"argparse\.Namespace.*runs nothing") as caught:
        read_public(path)
    command = shlex.split(str(caught.value).partition("nothing of it: ")[2])
    assert command == ["cxrlines", "weights", str(path), "--out", "it's $HOME.safetensors"]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, command[1:])
    assert result.exit_code == 0 and "3 tensors" in result.output
    got, form = read_public(tmp_path / "it's $HOME.safetensors")
    assert form == "safetensors" and same(dict(sorted(got.items())), under("state_dict.", tensors))


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: t for name, t in tensors.items()}


def test_a_program_is_converted_where_it_was_made(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it's $HOME.pt"
    path.write_bytes(pickle.dumps({"net": tensors}, protocol=4))
    with pytest.raises(WeightsError, match="converted") as caught:
        read_public(path)
    command = shlex.split(str(caught.value).partition("no harm: ")[2])
    assert command[:2] == ["python", "-c"] and command[3:] == ["it's $HOME.pt", "it's $HOME.safetensors"]
    torch.save({"net": tensors}, path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
    exec(command[2], {})
    got, _ = read_public(tmp_path / "it's $HOME.safetensors")
    assert same(dict(sorted(got.items())), tensors)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("numpy_1", [True, False])
def test_arrays_beside_the_weights_are_passed_over(
    modern: bool, numpy_1: bool, tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of the public kernels: `{"model": weights, "preds": predictions}`, as NumPy 1 and 2 name them."""
    path = tmp_path / "resnet200d_fold0_best.pth"
    arrays = {
        "preds": np.random.default_rng(0).random((30, 11)),
        "score": np.float64(0.96),
        "names": np.array(["a", 1]),
    }
    torch.save({"model": tensors, **arrays, "odd": np.array([{}, None])}, path, _use_new_zipfile_serialization=modern)
    if numpy_1:
        names = (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        if modern:
            with zipfile.ZipFile(path) as archive:
                entries = [(entry.filename, archive.read(entry).replace(*names)) for entry in archive.infolist()]
            with zipfile.ZipFile(path, "w") as archive:
                for entry in entries:
                    archive.writestr(*entry)
        else:
            path.write_bytes(path.read_bytes().replace(*names))
    assert (b"numpy.core" in path.read_bytes()) is numpy_1
    monkeypatch.setattr(np._core.multiarray, "_reconstruct", lambda *args: pytest.fail("an array was made"))
    allowed = set(torch.serialization.get_safe_globals())
    got, form = read_public(path)
    assert form == "PyTorch" and same(got, under("model.", tensors))
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("modern", [True, False])
def test_a_trap_within_an_array_is_refused_and_never_converted(modern: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "sprung", tmp_path / "w.pth"
    stored = {"model": {"a": torch.ones(3)}, "preds": np.array([Trap(marker)], object)}
    torch.save(stored, path, _use_new_zipfile_serialization=modern)
    for read in (read_public, lambda path: convert(path, tmp_path / "w.safetensors")):
        with pytest.raises(WeightsError, match=r"w\.pth is refused.*(posix|nt)\.system.*source you trust"):
            read(path)
    assert not marker.exists() and not (tmp_path / "w.safetensors").exists()


class Written:
    """Writes a file when it is unpickled the unsafe way, by a module that PyTorch does not block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()", "{}")


def test_converting_runs_nothing_of_a_file_whatever_it_names(tmp_path: Path) -> None:
    marker, path = tmp_path / "sprung", tmp_path / "w.pth"
    torch.save({"model": {"a": torch.ones(3)}, "trap": Written(marker)}, path)
    with pytest.raises(WeightsError, match=r"w\.pth is refused: to open it, exec would have to be run"):
        read_public(path)
    assert convert(path, tmp_path / "w.safetensors") == 1 and not marker.exists()
    assert same(read_public(tmp_path / "w.safetensors")[0], {"model.a": torch.ones(3)})


def test_a_whole_model_is_converted_to_its_state_dict(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 2)))
    torch.save(net, tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "w.safetensors") == len(net.state_dict())
    assert same(read_public(tmp_path / "w.safetensors")[0], dict(sorted(net.state_dict().items())))
    with pytest.raises(WeightsError, match="safetensors already"):
        convert(tmp_path / "w.safetensors", tmp_path / "x.safetensors")


def test_a_whole_model_and_a_script_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"model\.pt is refused.*torch\.nn\.modules\.linear\.Linear"):
        read_public(tmp_path / "model.pt")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(WeightsError, match=r"script\.pt.*TorchScript"):
        read_public(tmp_path / "script.pt")


@pytest.mark.parametrize("modern", [True, False])
def test_a_file_cut_anywhere_is_an_error_that_names_it(
    modern: bool, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    for kept in [1, 2, 3, 30, 63, 64, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match=r"w\.pth"):
            read_public(path)


@pytest.mark.parametrize("modern", [True, False])
def test_changed_bytes_give_tensors_or_a_clear_error(
    modern: bool, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path, chance = tmp_path / "w.pth", random.Random(0)
    torch.save(tensors, path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        changed[chance.randrange(600)] = chance.randrange(256)  # where the pickle is
        path.write_bytes(changed)
        try:
            assert all(isinstance(t, torch.Tensor) for t in read_public(path)[0].values())
        except WeightsError as error:
            refused += str(path) in str(error)
    assert refused > 30


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, these are no weights\n", "is not a weights file: it begins with b'hello"),
        (b"<!DOCTYPE html><html>Sign in</html>", "it begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS.*git lfs pull"),
        (pickle.dumps([1.0, "x"], protocol=4), "cannot be read without running code"),
        (b'\xff\xff\xff\xff\xff\xff\xff\x7f{"a":1}', "is not a complete safetensors file"),
    ],
)
def test_what_is_no_weights_file_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w\.pth.*{said}"):
        read_public(path)


def test_a_folder_a_missing_file_and_one_without_tensors_are_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        read_public(tmp_path)
    with pytest.raises(WeightsError, match=r"absent\.pth"):
        read_public(tmp_path / "absent.pth")
    for stored, kind in (([torch.ones(1)], "list"), ({"epoch": 3}, "dict"), (torch.ones(1), "Tensor")):
        torch.save(stored, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=f"tensors.*{kind}"):
            read_public(tmp_path / "w.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0")
    with pytest.raises(WeightsError, match=r"cut\.safetensors.*3 bytes") as caught:
        read_public(tmp_path / "cut.safetensors")
    assert "Pickled" not in str(caught.value)


def test_a_zip_of_other_things_or_one_that_would_grow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/resnet50.pth", "x")
    with pytest.raises(WeightsError, match=r"resnet50\.pth.*unpack"):
        read_public(path)
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="packed"):
        read_public(path)


def test_tensors_that_claim_far_more_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(10**9, 10**3)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"4000000000000 bytes.*\d{3,4}\b"):
        read_public(tmp_path / "w.pth")


def test_sparse_and_absent_tensors_are_refused_by_name(tmp_path: Path) -> None:
    for odd, kind in ((torch.eye(3).to_sparse(), "sparse_coo"), (torch.ones(3, device="meta"), "meta")):
        torch.save({"fine": torch.ones(2), "odd": odd}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=rf"odd is not a plain tensor \(.*{kind}"):
            read_public(tmp_path / "w.pth")
