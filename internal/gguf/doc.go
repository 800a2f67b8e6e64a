// Package gguf reads and writes GGUF files: one file that holds a model's tensors, often quantized, with
// its configuration and vocabulary as typed metadata.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
//
// Files are memory-mapped where the system allows, so opening a model costs its header, and a tensor's
// bytes are paged in when they are first read. Quantized tensors are handed out as they are stored;
// Dequantize and Quantize convert blocks.
//
// Everything in a file is taken as hostile: counts, lengths, offsets, shapes and names are checked before
// any byte is handed out, nothing is allocated on a count's word, and an error names the file and the
// metadata key, tensor or field. Package gguf/checkpoint makes a model directory of a file.
package gguf
