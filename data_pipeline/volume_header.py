"""Check the files of a volume before ITK reads them, which fills gaps with zeros and replaces NaN in silence."""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from data_pipeline.fields import shown
from data_pipeline.image_header import DAMAGED, ImageError

CHUNK = 1 << 20
LONGEST_HEADER = 1 << 20  # bytes of text before the pixels
# As C's printf has them: a longer width would fill the memory.
NUMBERED = re.compile(r"(?P<before>[^%]*)%(?P<width>0?\d?)d(?P<after>[^%]*)")
NUMBERS = re.compile(r"[^\s(),]+")
MOST_FILES = 10_000
NIFTI_FLOATS = {16: "f4", 64: "f8"}
# MetaIO's own sizes, whatever the machine's are.
METAIMAGE_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
METAIMAGE_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
GZIP = b"\x1f\x8b"
MM = "mm"
ENDINGS = ("meter", "meters", "metre", "metres")
MILLIMETRES = {  # of a unit, by its names in lower case
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", *(f"micro{ending}" for ending in ENDINGS)), 1e-3),
    **dict.fromkeys((MM, *(f"milli{ending}" for ending in ENDINGS)), 1.0),
    **dict.fromkeys(("cm", *(f"centi{ending}" for ending in ENDINGS)), 10.0),
    **dict.fromkeys(("m", *ENDINGS), 1000.0),
}
QUOTED = re.compile(r'"([^"]*)"|([^\s"]+)')
UNSTATED = ("", "?")  # of which "?" is MetaIO's word for it


@dataclass(frozen=True)
class Stated:
    """Hold what the files of a volume state of its spacing.

    whole: whether they state it for each axis.
    unit: the unit's name as it stands there, or `MM` where none does.
    """

    whole: bool
    unit: str = MM

    @property
    def millimetres(self) -> float | None:
        """Return the millimetres of the unit, or None where it is not known."""
        return MILLIMETRES.get(self.unit.lower())


@dataclass(frozen=True)
class _Nifti:
    """Hold what a NIfTI header says of its pixels.

    order: "<" or ">".
    offset: of the pixels in bytes.
    size: of the pixels in bytes.
    kind: NIfTI's number of their type.
    steps: the distances along the first three axes.
    """

    order: str
    offset: int
    size: int
    kind: int
    steps: tuple[float, ...]


def check_volume(file: Path) -> Stated:
    """Check that all files of a volume are there and whole, and return what they state of its spacing.

    Args:
        file: a NIfTI file, or the header of a MetaImage or NRRD volume.

    Returns:
        The unit is that of ITK's numbers, which heeds NIfTI's alone.

    Raises:
        ImageError: a file of pixels is missing, cut or damaged, or values are not finite where ITK would not tell.
        OSError: the file cannot be read.
    """
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return Stated(_check_nifti(file))
    if name.endswith((".mhd", ".mha")):
        return _check_metaimage(file)
    return _check_nrrd(file)


def pixel_files(header: Path) -> list[Path]:
    """Return the files of pixels that a MetaImage header names, or the header itself where they stand behind it.

    Raises:
        ImageError: one of them is missing, or the header names them in a way that is not read.
        OSError: the header cannot be read.
    """
    fields, _, rest = _fields(header, "=", end="elementdatafile")
    named = fields.get("elementdatafile", "")
    return [header] if named.upper() in ("", "LOCAL") else list(_named_files(header, named, rest))


def files_of(file: Path) -> list[Path]:
    """Return a file, and those that hold its pixels where it is a header of MetaImage or NRRD that names others.

    Raises:
        ImageError: one of them is missing, or the header names them in a way that is not read.
        OSError: the header cannot be read.
    """
    name = file.name.lower()
    if name.endswith((".mhd", ".mha")):
        return list(dict.fromkeys([file, *pixel_files(file)]))
    if name.endswith((".nrrd", ".nhdr")):
        fields, _, rest = _fields(file, ":")
        return [file, *_data_files(file, fields, rest)]
    return [file]


def _data_files(header: Path, fields: dict[str, str], rest: list[str]) -> list[Path]:
    """Return the files of pixels that an NRRD header names."""
    named = fields.get("data file", fields.get("datafile", ""))
    return list(_named_files(header, named, rest)) if named else []


def _check_nifti(file: Path) -> bool:
    with file.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        try:
            opened = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if packed else raw
            header = _nifti_header(opened.read(544))
            opened.seek(header.offset)
            _check_values(opened, header)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise ImageError(f"{DAMAGED}the volume is cut, or its compressed pixels are damaged", "damaged") from None
    return all(np.isfinite(step) and step > 0 for step in header.steps)


def _nifti_header(data: bytes) -> _Nifti:
    """Read the header of a NIfTI-1 or NIfTI-2 file that holds its pixels as well."""
    for order in "<>":
        size = struct.unpack_from(f"{order}i", data.ljust(4, b"\0"))[0]
        if size == 348 and len(data) >= 348 and data[344:347] == b"n+1":
            dimensions = struct.unpack_from(f"{order}8h", data, 40)
            kind, bits = struct.unpack_from(f"{order}2h", data, 70)
            steps = struct.unpack_from(f"{order}8f", data, 76)
            (offset,) = struct.unpack_from(f"{order}f", data, 108)
        elif size == 540 and len(data) >= 540 and data[4:7] == b"n+2":
            kind, bits = struct.unpack_from(f"{order}2h", data, 12)
            dimensions = struct.unpack_from(f"{order}8q", data, 16)
            steps = struct.unpack_from(f"{order}8d", data, 104)
            (offset,) = struct.unpack_from(f"{order}q", data, 168)
        else:
            continue
        axes = dimensions[1 : dimensions[0] + 1]
        if 1 <= dimensions[0] <= 7 and all(axis > 0 for axis in axes) and bits > 0 and 0 <= offset < 2**31:
            return _Nifti(order, int(offset), math.prod(axes) * bits // 8, kind, steps[1:4])
    raise ImageError(f"{DAMAGED}the header of its NIfTI file cannot be read", "damaged")


def _check_values(opened: BinaryIO, header: _Nifti) -> None:
    """Raise ImageError where pixels are missing, or not finite: readers of NIfTI turn those into 0."""
    left, bad = header.size, 0
    kind = NIFTI_FLOATS.get(header.kind)
    while left:
        chunk = opened.read(min(left, CHUNK))
        if not chunk:
            ends = header.size - left
            raise ImageError(f"{DAMAGED}the volume ends after {ends} of {header.size} bytes of pixels", "damaged")
        left -= len(chunk)
        if kind:
            # A last value that is cut is found by the length.
            whole = len(chunk) - len(chunk) % int(kind[1])
            bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk[:whole], header.order + kind))))
    if bad:
        raise ImageError(f"the volume holds {bad} NaN or infinities", "damaged")


def _check_metaimage(file: Path) -> Stated:
    fields, start, _ = _fields(file, "=", end="elementdatafile")
    files, wanted = pixel_files(file), _metaimage_size(fields)
    local, packed = files == [file], fields.get("compresseddata", "").lower() == "true"
    if len(files) > 1:
        _check_slices(files, fields, wanted, packed=packed)
    elif packed:
        size = _whole_number(fields.get("compresseddatasize", ""))
        # A file of pixels alone may leave it out. Behind a header ITK would unpack from the wrong place.
        if local and not size:
            raise ImageError(f"{DAMAGED}the volume's header states no CompressedDataSize", "damaged")
        with files[0].open("rb") as opened:
            opened.seek(start if local else 0)
            _check_packed(opened, size or files[0].stat().st_size, wanted)
    else:
        _check_length(files[0], fields, start if local else 0, wanted)
    return Stated(whole=True, unit=_one_unit([fields.get("distanceunits", "")]))


def _one_unit(names: list[str]) -> str:
    """Return the one unit that is stated, `MM` where none is, or all that are stated where they differ."""
    stated = dict.fromkeys(name.strip() for name in names if name.strip() not in UNSTATED)
    return " ".join(stated) or MM


def _check_length(file: Path, fields: dict[str, str], start: int, wanted: int) -> None:
    """Raise ImageError where a file holds more or fewer bytes of pixels than asked for: ITK reads them from the start.

    Args:
        file: holds pixels that are not compressed.
        fields: of the header.
        start: where the pixels begin, unless the header says it.
        wanted: bytes of pixels, or 0 where they are not known.
    """
    size, skipped = file.stat().st_size, fields.get("headersize", "")
    as_text = fields.get("binarydata", "true")[:1].lower() not in ("t", "1")  # as MetaIO tells it
    # -1 says that the pixels are the file's last bytes, whatever comes before.
    short = skipped == "-1" and size < wanted
    asked = (_whole_number(skipped) or start) + wanted
    if wanted and not as_text and (short or (skipped != "-1" and size != asked)):
        raise ImageError(
            f"{DAMAGED}a file of pixels has {size} bytes where the volume's header states {asked}: "
            "correct ElementType, DimSize or HeaderSize",
            "damaged",
        )


def _check_slices(files: list[Path], fields: dict[str, str], wanted: int, *, packed: bool) -> None:
    """Raise ImageError unless there is a whole file of pixels for each slice: ITK would leave the rest to chance."""
    slices = _whole_number(fields.get("dimsize", "").split()[-1]) if fields.get("dimsize", "").split() else 0
    words = fields["elementdatafile"].upper().split()
    # The number behind LIST says how many axes each file has.
    if len(files) != slices or (words[0] == "LIST" and words[1:] not in ([], ["2"], ["2D"])):
        raise ImageError(f"{DAMAGED}the volume has {slices} slices in {len(files)} files of pixels", "damaged")
    for path in files:
        if packed:
            with path.open("rb") as opened:
                _check_packed(opened, path.stat().st_size, wanted // slices)
        else:
            _check_length(path, fields, 0, wanted // slices)


def _metaimage_size(fields: dict[str, str]) -> int:
    """Return how many bytes of pixels a header asks for, or 0 where it cannot be read, which ITK refuses."""
    kind = fields.get("elementtype", "").upper().removeprefix("MET_").removesuffix("_ARRAY")
    size = METAIMAGE_BYTES.get(kind, 0) * (_whole_number(fields.get("elementnumberofchannels", "")) or 1)
    for axis in fields.get("dimsize", "").split():
        size *= _whole_number(axis)
    return size


def _whole_number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def _check_packed(opened: BinaryIO, size: int, wanted: int) -> None:
    """Raise ImageError unless `size` bytes unpack to `wanted` bytes or more: ITK would leave the rest to chance.

    What their writer compares them with stands behind them, where ITK does not look.
    """
    unpacker, left, unpacked = zlib.decompressobj(wbits=47), size, 0  # zlib or gzip, whichever it is
    try:
        while not unpacker.eof and (data := unpacker.unconsumed_tail or opened.read(min(left, CHUNK))):
            left -= 0 if unpacker.unconsumed_tail else len(data)
            unpacked += len(unpacker.decompress(data, CHUNK))
        unpacked += len(unpacker.flush())
    except zlib.error:
        unpacked = -1
    if not unpacker.eof or unpacked < wanted:
        raise ImageError(f"{DAMAGED}the compressed pixels of the volume are not whole", "damaged")


def _check_nrrd(file: Path) -> Stated:
    """Check that the files that a header names are there, and return what it states of its spacing."""
    fields, _, rest = _fields(file, ":")
    _data_files(file, fields, rest)
    stated = [*fields.get("spacings", "").split(), *NUMBERS.findall(fields.get("space directions", ""))]
    units = QUOTED.findall(f"{fields.get('space units', '')} {fields.get('units', '')}")
    # ITK takes 1 for what is no number.
    whole = not stated or all(_is_finite(number) for number in stated)
    return Stated(whole, _one_unit([quoted or plain for quoted, plain in units]))


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fields(file: Path, separator: str, end: str | None = None) -> tuple[dict[str, str], int, list[str]]:
    """Return the fields of a header in text by their names in lower case, its length, and the lines behind it.

    Args:
        file: what begins with it.
        separator: between names and values.
        end: the last field, without which an empty line ends the header.
    """
    with file.open("rb") as opened:
        lines = opened.read(LONGEST_HEADER).split(b"\n")
    fields: dict[str, str] = {}
    length = 0
    for index, line in enumerate(lines):
        text = line.decode("utf-8", "replace").strip()
        length += len(line) + 1
        name, _, value = text.partition(separator)
        name = name.strip().lower()
        fields.setdefault(name, value.strip())
        # The names of a list stand where the pixels would.
        listed = name in ("data file", "datafile") and value.strip().upper().startswith("LIST")
        if name == end or listed or (end is None and not text):
            return fields, length, [one.decode("utf-8", "replace").strip() for one in lines[index + 1 :]]
    return fields, length, []


def _named_files(file: Path, named: str, rest: list[str]) -> Iterator[Path]:
    """Yield the files of pixels that a header names, each of which is there."""
    words = named.split()
    if words[0].upper() == "LIST":
        names = [one for one in rest if one][:MOST_FILES]
    elif "%" in named:
        names = list(_numbered(words))
    else:
        names = [named]
    for name in names:
        path = file.parent / name
        try:
            there = path.is_file()
        except (OSError, ValueError):  # too long, or with a zero byte
            there = False
        if not there:
            raise ImageError(f"the volume's file of pixels is missing ({shown(name)})", "damaged")
        yield path


def _numbered(words: list[str]) -> Iterator[str]:
    """Yield the names that a pattern stands for: `slice%03d.raw FIRST LAST STEP`."""
    pattern, numbers = NUMBERED.fullmatch(words[0]), words[1:]
    plain = all(number.isascii() and number.isdigit() and len(number) < 7 for number in numbers)
    if pattern is None or len(numbers) not in (3, 4) or not plain or int(numbers[2]) < 1:
        raise ImageError(f"{DAMAGED}the volume names its files of pixels in a way that is not read", "damaged")
    first, last, step = (int(number) for number in numbers[:3])
    for number in range(first, min(last, first + step * MOST_FILES) + 1, step):
        yield f"{pattern['before']}{number:{pattern['width']}d}{pattern['after']}"
