// Package recording keeps journals in files: what every actor of an engine was told and decided, from which an actor, or
// the whole engine, can be run again (package replay).
//
// A recording is a header and frames. The header is 8 bytes of magic and the format's version, 4 bytes little-endian.
// A frame is a 4-byte mark, a kind (1 byte), the length of its payload and a checksum (CRC-32C) of kind, length and
// payload, each 4 bytes little-endian, and the payload: zstandard-compressed JSON (a Manifest) or msgpack (some
// schemas.JournalBatch, each after its length as a varint). Every part begins with a Manifest; a recording that was continued
// has several parts. Frames are written whole, at the latest after FlushEvery: what a killed recorder leaves is a
// readable file that lacks its last moment.
package recording
