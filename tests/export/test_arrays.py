from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from phoenix_export import arrays
from phoenix_export.arrays import map_safetensor, npz_headers, npz_pieces, write_safetensors
from phoenix_export.errors import CheckpointError

Floats = npt.NDArray[np.float32]

TENSORS: dict[str, Floats] = {
    "module/~/table": np.arange(15, dtype=np.float32).reshape(3, 5) / 7,
    "scale": np.arange(7, dtype=np.float32) - 0.5,
    "scalar": np.array(-1.5, np.float32),
    "one": np.array([[2.5]], np.float32),
    "none": np.zeros((0, 4), np.float32),
    "deep": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
}


def _write(path: Path, tensors: dict[str, Floats], piece_size: int = 1000) -> Path:
    def pieces(name: str) -> Iterator[Floats]:
        flat = tensors[name].ravel()
        for start in range(0, flat.size, piece_size):
            yield flat[start : start + piece_size]

    write_safetensors(path, {name: array.shape for name, array in tensors.items()}, pieces)
    return path


@pytest.mark.parametrize("piece_size", [1, 4, 1000])
def test_the_safetensors_library_reads_what_was_written(tmp_path: Path, piece_size: int) -> None:
    found = load_file(_write(tmp_path / "file", TENSORS, piece_size))
    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected, strict=True)


def test_empty_pieces_are_skipped(tmp_path: Path) -> None:
    empty, full = np.zeros(0, np.float32), np.array([1, 2], np.float32)
    write_safetensors(tmp_path / "file", {"a": (2,)}, lambda _: iter([empty, full, empty]))
    np.testing.assert_array_equal(load_file(tmp_path / "file")["a"], full)


@pytest.mark.parametrize("name_length", range(1, 66, 13))
def test_data_begin_at_a_multiple_of_64_bytes(tmp_path: Path, name_length: int) -> None:
    path = _write(tmp_path / "file", {"n" * name_length: TENSORS["deep"]})
    header_length = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + header_length) % 64 == 0
    assert path.stat().st_size == 8 + header_length + TENSORS["deep"].nbytes


@pytest.mark.parametrize("shape", [(11,), (13, 1), ()])
def test_pieces_that_do_not_fit_the_shape_are_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    piece = np.zeros(6, np.float32)
    expected = re.escape(f"a: 12 numbers do not make the shape {shape}")
    with pytest.raises(ValueError, match=expected):
        write_safetensors(tmp_path / "file", {"a": shape}, lambda _: iter([piece, piece]))


def test_a_mapped_tensor_is_the_written_one_and_read_only(tmp_path: Path) -> None:
    path = _write(tmp_path / "file", TENSORS)
    for name in TENSORS.keys() - {"none"}:
        mapped = map_safetensor(path, name)
        np.testing.assert_array_equal(mapped, TENSORS[name], strict=True)
        assert not mapped.flags.writeable


Save = Callable[..., None]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("piece_bytes", [4, 20, 36, 60, 64, 1 << 20])
def test_pieces_of_an_npz_make_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Save, piece_bytes: int
) -> None:
    monkeypatch.setattr(arrays, "_PIECE_BYTES", piece_bytes)
    path = tmp_path / "file.npz"
    save(path, **TENSORS)
    for name, expected in TENSORS.items():
        pieces = list(npz_pieces(path, name))
        assert all(0 < piece.nbytes <= piece_bytes for piece in pieces)
        assert len(pieces) == -(-expected.nbytes // piece_bytes)
        found = np.concatenate([*pieces, np.zeros(0, np.float32)])
        np.testing.assert_array_equal(found, expected.ravel(), strict=True)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_large_array_is_read_in_several_pieces(tmp_path: Path, save: Save) -> None:
    expected = np.random.default_rng(0).standard_normal((1 << 12, 515), np.float32)  # 8.4 MB
    save(tmp_path / "file.npz", table=expected)
    pieces = list(npz_pieces(tmp_path / "file.npz", "table"))
    assert len(pieces) == 2
    np.testing.assert_array_equal(np.concatenate(pieces), expected.ravel())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_headers_tell_shape_type_and_order(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "file.npz"
    save(path, a=np.zeros((3, 5), np.float64), b=np.asfortranarray(TENSORS["module/~/table"]))
    assert npz_headers(path) == {
        "a": ((3, 5), np.dtype(np.float64), False),
        "b": ((3, 5), np.dtype(np.float32), True),
    }


def test_members_that_are_not_arrays_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    np.savez(path, a=TENSORS["scale"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "hello")
    assert npz_headers(path).keys() == {"a"}


def _npz(path: Path, member: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", member)
    return path


def _npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("missing", [1, 3, 4, 21, 28])
@pytest.mark.parametrize("piece_bytes", [8, 1 << 20])
def test_an_array_shorter_than_its_header_says_is_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, piece_bytes: int
) -> None:
    monkeypatch.setattr(arrays, "_PIECE_BYTES", piece_bytes)
    path = _npz(tmp_path / "file.npz", _npy(TENSORS["scale"])[:-missing])
    with pytest.raises(CheckpointError) as caught:
        list(npz_pieces(path, "a"))
    assert caught.value.path == path
    assert caught.value.problems == (f"a: truncated, {missing} bytes are missing",)


def test_an_array_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = _npz(tmp_path / "file.npz", _npy(TENSORS["scale"]) + b"\0")
    with pytest.raises(CheckpointError, match=r"a: holds more than its shape \(7,\) takes"):
        list(npz_pieces(path, "a"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9])
def test_changed_data_are_refused(tmp_path: Path, save: Save, place: float) -> None:
    path = tmp_path / "file.npz"
    save(path, a=np.random.default_rng(0).standard_normal(1000).astype(np.float32))
    damaged = bytearray(path.read_bytes())
    damaged[int(len(damaged) * place)] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"truncated, damaged or no \.npz") as caught:
        list(npz_pieces(path, "a"))
    assert caught.value.path == path


@pytest.mark.parametrize("content", [b"", b"not a zip", _npy(np.zeros(3)), json.dumps({}).encode()])
def test_a_file_that_is_not_an_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no .npz: File is not a zip file$"):
        npz_headers(tmp_path / "file.npz")


def test_a_member_that_is_not_an_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="magic string is not correct"):
        npz_headers(_npz(tmp_path / "file.npz", b"no array at all"))


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = _npz(tmp_path / "file.npz", _npy(TENSORS["scale"]))
    content = path.read_bytes()
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + offset
        content = content[:at] + b"\x01" + content[at + 1 :]  # the flag for encryption
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        npz_headers(path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"file\.npz: missing$"):
        npz_headers(tmp_path / "file.npz")


def _npz_with_header(path: Path, header: str) -> Path:
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", magic + header.encode())
    return path


@pytest.mark.parametrize("header", ["{'descr': (", "{1: 2, 'descr': 3}", "{[]: 2}", "-" * 9000])
def test_a_header_that_cannot_be_parsed_is_refused(tmp_path: Path, header: str) -> None:
    path = _npz_with_header(tmp_path / "file.npz", header)
    with pytest.raises(CheckpointError, match=r"or no \.npz: the header of an array cannot be"):
        npz_headers(path)


def test_damaged_lzma_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", bytes(1000))
    contents = bytearray(path.read_bytes())
    properties = contents.index(b"a.npy") + len("a.npy") + 4
    contents[properties] = 0xFF
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"truncated, damaged or no \.npz: "):
        npz_headers(path)
