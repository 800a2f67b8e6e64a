// Package quantizer writes a model as a GGUF file with fewer bits per weight. It reads a directory of safetensors
// or a GGUF file, converts some rows at a time, so that memory does not grow with the model, and makes a file that
// runs alone: tokenizer, chat template and configuration go with it.
//
// From a GGUF file comes another of the same architecture, with the same metadata, which other programs read too.
// From a directory comes an archive (package checkpoint), with the directory's own files in the metadata.
//
// Which weights get how many bits is what an engine does that quantizes as it loads (--quant), so that both give
// the same answers.
package quantizer
