#!/usr/bin/env python3
"""Prints a novel of Jane Austen (public domain) out of the data file of Debian's r-cran-janeaustenr.

usage: austen.py Rdata.rdb TITLE     where TITLE is a line that the novel begins with, as "Persuasion"

The file is a row of objects, each the length of what it unpacks to (4 bytes, big-endian) and a zlib stream of R's
XDR serialization. A novel is a vector of strings, each of 8 bytes of flags and length and then its characters.
"""
import struct
import sys
import zlib

STRSXP = 16


def objects(raw):
    at = 0
    while at + 4 < len(raw):
        stream = zlib.decompressobj()
        yield stream.decompress(raw[at + 4 :])
        at = len(raw) - len(stream.unused_data)


def strings(data):
    """The vector of strings that data is: format, versions, encoding, flags, length, and each string's flags and length."""
    (name,) = struct.unpack_from(">i", data, 14)
    flags, count = struct.unpack_from(">Ii", data, 18 + name)
    if not data.startswith(b"X\n") or flags & 0xFF != STRSXP:
        sys.exit("an object is no vector of strings: the package has changed")
    at = 26 + name
    for _ in range(count):
        (length,) = struct.unpack_from(">i", data, at + 4)
        yield data[at + 8 : at + 8 + length].decode("utf-8")
        at += 8 + length


def main():
    path, title = sys.argv[1:]
    with open(path, "rb") as f:
        raw = f.read()
    for data in objects(raw):
        lines = list(strings(data))
        if title in lines[:1]:
            print("\n".join(lines))
            return
    sys.exit(f"no novel in {path} begins with {title!r}")


main()
