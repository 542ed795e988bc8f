"""Intact films in every format that is read, with what they show: for tests and `bench robustness`."""

import io
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from cxrlines.io.images import tiff_directory

JPEG = "1.2.840.10008.1.2.4."
"""Transfer syntaxes of the JPEG family, without the last number."""
SHIPPED = (
    *("CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian", "MR_small_expb", "MR_small_implicit"),
    *("MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_padded", "JPEG-lossy", "JPEG2000", "JPGExtended"),
    *("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "J2K_pixelrep_mismatch", "693_J2KI", "ExplVR_BigEnd"),
    *("SC_rgb_dcmtk_+eb+cr", "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+s2", "SC_rgb_gdcm_KY", "SC_rgb_jpeg_gdcm"),
    *("SC_rgb_jls_lossy_line", "SC_rgb_jls_lossy_sample", "SC_rgb_jpeg_dcmtk", "SC_rgb_rle", "SC_rgb_rle_16bit"),
    *("SC_rgb_small_odd", "SC_rgb_small_odd_jpeg", "SC_ybr_full_422_uncompressed", "examples_jpeg2k"),
    *("examples_overlay", "examples_rgb_color", "GDCMJ2K_TextGBR"),
)
"""Films among the test files that come with pydicom, by other encoders than those here."""
BEHIND = b"behind the end "


@dataclass(frozen=True, eq=False)
class IntactFilm:
    """A film without fault."""

    name: str  # its kind
    data: bytes  # the file
    shows: np.ndarray | None = None  # (h, w) what it shows, up to contrast; None where that is not known
    forgiven: dict[str, bytes] = field(default_factory=dict)  # by name, with damage that a viewer forgives


def picture(rng: np.random.Generator, height: int, width: int, bits: int = 8) -> np.ndarray:
    """A smooth picture with grain, (height, width), that spans 0 to 2**bits - 1; uint8 up to 8 bits, else uint16."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = sum(np.sin(rng.uniform(-9, 9) * x + rng.uniform(-9, 9) * y + rng.uniform(0, 6)) for _ in range(6))
    grain = waves + rng.normal(0, 0.05, (height, width))
    share = (grain - grain.min()) / max(np.ptp(grain), 1e-9)
    return np.rint(share * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def coloured(gray: np.ndarray) -> np.ndarray:
    """(h, w, 3) colours whose luma goes with `gray`."""
    return np.stack([gray, gray // 2 + gray // 4, gray // 2], axis=-1)


def as_dicom(
    pixels: np.ndarray,
    bits: int,
    *,
    syntax: str = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    parts: list[bytes] | None = None,
    **tags: Any,
) -> bytes:
    """A DICOM file of stored values (h, w) or (h, w, 3); of an encoded `frame` or its `parts` where there is one.

    `tags` are laid over what the values need; one that is None is removed.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dataset = FileDataset("film.dcm", {}, bytes(128), meta, is_implicit_VR=implicit, is_little_endian=little)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    colour = pixels.ndim == 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, tag in tags.items():
        setattr(dataset, name, tag)
        if tag is None:
            delattr(dataset, name)
    encoded = frame is not None or parts is not None
    if parts is not None:  # as fragments of one frame, which need an offset table of one entry or none
        value = b"".join(map(_item, [b"", *parts]))
    elif frame is not None:
        value = encapsulate([frame])
    else:
        value = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    dataset.PixelData = value + b"\0" * (len(value) % 2)
    dataset["PixelData"].VR = "OB" if encoded or pixels.itemsize == 1 else "OW"
    dataset["PixelData"].is_undefined_length = encoded
    return _saved(dataset)


def _item(part: bytes) -> bytes:
    part += b"\0" * (len(part) % 2)
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(part)) + part


def _saved(dataset: FileDataset) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # of a header that contradicts itself on purpose
        dataset.save_as(out)
    return out.getvalue()


def by_openjpeg(pixels: np.ndarray, bits: int, *, ratio: int | None = None, transform: bool = True) -> bytes:
    """A JPEG 2000 stream, without loss unless there is a `ratio`."""
    from openjpeg.utils import encode_array

    kind = 1 if pixels.ndim == 3 else 2  # RGB, monochrome
    ratios: dict[str, Any] = {} if ratio is None else {"compression_ratios": [float(ratio)]}
    return bytes(encode_array(pixels, bits_stored=bits, photometric_interpretation=kind, use_mct=transform, **ratios))


def by_pillow(pixels: np.ndarray, **options: Any) -> bytes:
    """A JPEG stream of 8 bits."""
    return _file(Image.fromarray(pixels), "JPEG", **{"quality": 95, **options})


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def by_gdcm(pixels: np.ndarray, bits: int, number: int) -> bytes:
    """A stream of transfer syntax JPEG + number by GDCM, which gives all that is deeper than 8 bits 16 of them.

    `ValueError` for what it does not encode, an odd number of bytes among it.
    """
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "film.dcm")
        file.write_bytes(as_dicom(pixels, bits))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(f"{JPEG}{number}")))
        done = reader.Read()
        change.SetInput(reader.GetImage())
        done = done and change.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not (done and writer.Write()):
            raise ValueError(f"GDCM does not encode {pixels.shape} of {bits} bits by {JPEG}{number}")
        return next(pydicom.encaps.generate_frames(pydicom.dcmread(file).PixelData, number_of_frames=1))


def _luma(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114])


def dicoms(rng: np.random.Generator, height: int, width: int) -> Iterator[IntactFilm]:
    """DICOM films, uncompressed and in every transfer syntax for which there is an encoder."""
    gray8, gray12, gray16 = (picture(rng, height, width, bits) for bits in (8, 12, 16))
    yield from _uncompressed(gray8, gray12, gray16)
    yield from _run_length_encoded(gray8, gray12, gray16)
    yield from _jpeg_encoded(rng, gray8, gray12, gray16)


def _depths(gray8: np.ndarray, gray12: np.ndarray, gray16: np.ndarray) -> list[tuple[str, np.ndarray, int]]:
    """(name, stored values, bits) of films of every depth, and one of colour."""
    return [("8", gray8, 8), ("12", gray12, 12), ("16", gray16, 16), ("colour", coloured(gray8), 8)]


def _uncompressed(gray8: np.ndarray, gray12: np.ndarray, gray16: np.ndarray) -> Iterator[IntactFilm]:
    """Every way of storing and showing plain values."""

    def plain(name: str, pixels: np.ndarray, bits: int, shows: np.ndarray | None = None, **tags: Any) -> IntactFilm:
        return IntactFilm(f"DICOM {name}", as_dicom(pixels, bits, **tags), _luma(pixels) if shows is None else shows)

    yield plain("8 bits", gray8, 8)
    yield plain("12 bits", gray12, 12)
    yield plain("16 bits, implicit", gray16, 16, syntax=ImplicitVRLittleEndian)
    yield plain("12 bits, big endian", gray12, 12, syntax=ExplicitVRBigEndian)
    yield plain("signed", gray12.astype(np.int16) - 2048, 12)
    yield plain("high in its words", gray12 << 4, 12, gray12, HighBit=15)
    yield plain("MONOCHROME1", gray12, 12, -gray12.astype(int), PhotometricInterpretation="MONOCHROME1")
    yield plain("window", gray12, 12, np.clip(gray12, 1000, 3000), WindowCenter=2000, WindowWidth=2000)
    table = np.sqrt(np.arange(4096) * 4095).astype(np.uint16)
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 12], table.tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    yield plain("VOI LUT", gray12, 12, table[gray12], VOILUTSequence=[item])
    rgb = coloured(gray8)
    yield plain("RGB", rgb, 8)
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1)).reshape(rgb.shape)
    yield plain("RGB by plane", planes, 8, _luma(rgb), PlanarConfiguration=1)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    yield plain("YBR_FULL", ybr, 8, ybr[..., 0], PhotometricInterpretation="YBR_FULL")


def _run_length_encoded(gray8: np.ndarray, gray12: np.ndarray, gray16: np.ndarray) -> Iterator[IntactFilm]:
    for name, pixels, bits in _depths(gray8, gray12, gray16):
        dataset = pydicom.dcmread(io.BytesIO(as_dicom(pixels, bits)))
        # Not by GDCM, which aborts on odd sizes.
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        yield IntactFilm(f"DICOM RLE {name}", _saved(dataset), _luma(pixels))


def _jpeg_encoded(
    rng: np.random.Generator, gray8: np.ndarray, gray12: np.ndarray, gray16: np.ndarray
) -> Iterator[IntactFilm]:
    """JPEG, JPEG 2000 and JPEG-LS."""
    rgb8, rgb16, signed = coloured(gray8), coloured(gray16), gray12.astype(np.int16) - 2048

    def coded(name: str, number: int, pixels: np.ndarray, bits: int, frame: bytes, colours: str = "") -> IntactFilm:
        tags = {"PhotometricInterpretation": colours} if colours else {}
        return _encapsulated(rng, f"DICOM {name}", pixels, bits, number, frame, **tags)

    yield coded("JPEG", 50, gray8, 8, by_pillow(gray8))
    yield coded("JPEG progressive", 55, gray8, 8, by_pillow(gray8, progressive=True))
    yield coded("JPEG colour", 50, rgb8, 8, by_pillow(rgb8), "YBR_FULL_422")
    yield coded("JPEG extended", 51, gray8, 8, by_pillow(gray8))
    yield coded("JPEG 2000 8", 90, gray8, 8, by_openjpeg(gray8, 8))
    yield coded("JPEG 2000 12", 90, gray12, 12, by_openjpeg(gray12, 12))
    yield coded("JPEG 2000 signed", 90, signed, 12, by_openjpeg(signed, 12))
    yield coded("JPEG 2000 lossy", 91, gray16, 16, by_openjpeg(gray16, 16, ratio=8))
    yield coded("JPEG 2000 colour", 90, rgb8, 8, by_openjpeg(rgb8, 8), "YBR_RCT")
    yield coded("JPEG 2000 RGB", 90, rgb16, 16, by_openjpeg(rgb16, 16, transform=False), "RGB")
    for name, number in (("lossless", 57), ("lossless SV1", 70), ("LS", 80), ("LS near", 81)):
        for depth, pixels, bits in _depths(gray8, gray12, gray16):
            yield coded(f"JPEG {name} {depth}", number, pixels, bits, by_gdcm(pixels, bits, number))


def _encapsulated(
    rng: np.random.Generator, name: str, pixels: np.ndarray, bits: int, number: int, frame: bytes, **tags: Any
) -> IntactFilm:
    """A film of an encoded `frame` in the transfer syntax JPEG + number, whole and with damage that is forgiven."""

    def film(**pixel_data: Any) -> bytes:
        return as_dicom(pixels, bits, syntax=f"{JPEG}{number}", **pixel_data, **tags)

    cuts = np.sort(rng.integers(1, len(frame), 5) // 2 * 2)
    whole, wrong = film(frame=frame), bytearray(film(frame=frame))
    table = whole.rindex(b"\xfe\xff\x00\xe0\x04\0\0\0") + 8  # the offset table's one entry
    wrong[table : table + 4] = bytes(rng.integers(1, 256, 4, dtype=np.uint8))
    parts = [frame[a:b] for a, b in pairwise([0, *cuts, len(frame)]) if a < b]
    forgiven = {
        "text behind the stream": film(frame=frame + BEHIND * int(rng.integers(1, 20))),
        "blanks behind the stream": film(frame=frame + b" " * 4),
        "many fragments": film(parts=parts),
        "no sequence delimiter": whole[:-8],
        "wrong offset table": bytes(wrong),
    }
    return IntactFilm(name, whole, _luma(pixels), forgiven)


def images(rng: np.random.Generator, height: int, width: int) -> Iterator[IntactFilm]:
    """JPEG, PNG and TIFF films."""
    gray, deep = picture(rng, height, width), picture(rng, height, width, 16)
    colour = coloured(gray)

    def saved(name: str, kind: str, pixels: np.ndarray, mode: str | None = None, **options: Any) -> IntactFilm:
        image = Image.fromarray(pixels).convert(mode) if mode else Image.fromarray(pixels)
        shows = np.asarray(image.convert("L")) if mode else _luma(pixels)
        return IntactFilm(f"{kind} {name}", _file(image, kind, **options), shows)

    yield saved("gray", "JPEG", gray, quality=95)
    yield saved("progressive", "JPEG", gray, quality=95, progressive=True)
    yield saved("restarts", "JPEG", gray, quality=95, restart_marker_rows=1)
    yield saved("colour", "JPEG", colour, quality=95)
    yield saved("colour, progressive", "JPEG", colour, quality=95, progressive=True)
    for name, pixels in (("8 bits", gray), ("16 bits", deep), ("RGB", colour)):
        yield saved(name, "PNG", pixels)
    yield saved("gray and alpha", "PNG", gray, "LA")
    yield saved("RGB and alpha", "PNG", colour, "RGBA")
    yield saved("palette", "PNG", colour, "P")
    yield saved("1 bit", "PNG", gray, "1")
    for name, pixels in (("8 bits", gray), ("16 bits", deep), ("RGB", colour), ("RGB 16", coloured(deep))):
        yield IntactFilm(f"PNG {name}, written here", png(pixels, False), _luma(pixels))
        yield IntactFilm(f"PNG {name}, interlaced, written here", png(pixels, True), _luma(pixels))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        for name, pixels in (("8 bits", gray), ("16 bits", deep), ("RGB", colour)):
            yield saved(f"{name}, {compression}", "TIFF", pixels, compression=compression)
    yield saved("JPEG", "TIFF", gray, compression="jpeg")
    yield saved("group 4", "TIFF", gray, "1", compression="group4")
    yield saved("BigTIFF", "TIFF", deep, big_tiff=True)
    yield saved("strips", "TIFF", deep, strip_size=4 * width)
    yield replace(saved("white is 0", "TIFF", deep, tiffinfo={262: 0}), shows=-deep.astype(int))
    for pixels in (gray, deep):
        for deflated, name in ((False, ""), (True, ", deflated")):
            yield IntactFilm(f"TIFF tiles, {8 * pixels.itemsize} bits{name}", tiled_tiff(pixels, deflated), pixels)


def png(pixels: np.ndarray, interlaced: bool) -> bytes:
    """A PNG of (h, w) or (h, w, 3), 8 or 16 bits, in seven passes (Adam7) or one."""
    height, width = pixels.shape[:2]
    depth, colour = 8 * pixels.itemsize, 2 if pixels.ndim == 3 else 0
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = []
    for y, x, step_y, step_x in starts if interlaced else ((0, 0, 1, 1),):
        for row in pixels[y::step_y, x::step_x].astype(f">u{pixels.itemsize}"):
            lines += [b"\0", row.tobytes()] if len(row) else []
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiled_tiff(pixels: np.ndarray, deflated: bool) -> bytes:
    """A TIFF of gray (h, w) in tiles."""
    (height, width), side = pixels.shape, 64
    whole = np.pad(pixels.astype(pixels.dtype.newbyteorder("<")), ((0, -height % side), (0, -width % side)))
    places = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    tiles = [whole[y : y + side, x : x + side].tobytes() for y, x in places]
    tiles = [zlib.compress(tile) for tile in tiles] if deflated else tiles
    ends = np.cumsum([8, *map(len, tiles)]).tolist()
    tags = {256: [width], 257: [height], 258: [8 * pixels.itemsize], 259: [8 if deflated else 1], 262: [1], 277: [1]}
    tags |= {322: [side], 323: [side], 324: ends[:-1], 325: [len(tile) for tile in tiles]}
    return struct.pack("<2sHI", b"II", 42, ends[-1]) + b"".join(tiles) + tiff_directory(tags, ends[-1])


def shipped() -> Iterator[IntactFilm]:
    """Films that come with pydicom."""
    folder = Path(pydicom.__file__).parent / "data/test_files"
    for name in SHIPPED:
        if (path := folder / f"{name}.dcm").is_file():
            yield IntactFilm(f"pydicom's {name}", path.read_bytes())


def every_kind(rng: np.random.Generator, height: int, width: int) -> list[IntactFilm]:
    """A film of every kind; text behind the end of a whole file is forgiven in all of them."""
    made = [*dicoms(rng, height, width), *images(rng, height, width)]
    text = BEHIND * int(rng.integers(1, 200))
    return [replace(film, forgiven={**film.forgiven, "text behind the file": film.data + text}) for film in made]


def large_films(rng: np.random.Generator, height: int, width: int) -> list[IntactFilm]:
    """One film of each way of coding, which takes a while where they are large."""
    gray8, gray16 = picture(rng, height, width), picture(rng, height, width, 16)
    return [
        IntactFilm("large DICOM", as_dicom(gray16, 16), gray16),
        _encapsulated(rng, "large JPEG", gray8, 8, 50, by_pillow(gray8, progressive=True)),
        _encapsulated(rng, "large lossless JPEG", gray16, 16, 70, by_gdcm(gray16, 16, 70)),
        _encapsulated(rng, "large JPEG-LS", gray16, 16, 80, by_gdcm(gray16, 16, 80)),
        _encapsulated(rng, "large JPEG 2000", gray16, 16, 90, by_openjpeg(gray16, 16)),
        IntactFilm("large PNG", png(gray16, False), gray16),
        IntactFilm("large TIFF", _file(Image.fromarray(gray16), "TIFF", compression="tiff_adobe_deflate"), gray16),
    ]
