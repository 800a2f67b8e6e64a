// Package ucd holds the character classes that the Hugging Face tokenizers library applies.
//
// That library combines components built on Unicode versions from 9.0 (normalization) to 16.0 and later
// (regular expressions, case mapping), so neither Go's unicode package nor any one Unicode edition
// reproduces it. tables.txt was read off the library itself, code point by code point, by
// scripts/tokenizers_oracle.py; the sets are exact for the version named in its first line.
package ucd
