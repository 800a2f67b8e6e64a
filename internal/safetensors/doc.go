// Package safetensors reads and writes tensor files in the safetensors format: eight bytes of
// little-endian header length, a JSON header naming every tensor's type, shape and byte range,
// and the bytes. https://github.com/huggingface/safetensors#format
//
// Files are memory-mapped where the system allows, so opening a checkpoint costs its header
// and a tensor's bytes are paged in when they are first read. A checkpoint split over several
// files is opened through its model.safetensors.index.json and read as one.
//
// Everything in a file is taken as hostile: lengths, offsets, shapes and names are checked
// before any byte is handed out, nothing is allocated on a header's word, and an error names
// the file, the tensor and the field.
package safetensors
