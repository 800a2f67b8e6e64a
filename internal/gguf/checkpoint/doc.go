// Package checkpoint presents a GGUF file as a Hugging Face model directory, so that the rest of the
// engine has one notion of a model: Dir is a file system with the file itself as model.gguf and with
// config.json, generation_config.json, tokenizer.json and tokenizer_config.json made from its metadata;
// Weights finds the file's tensors under the names, and with the rows in the order, that a safetensors
// checkpoint of the same architecture has.
//
// What differs between the formats, and is undone here: names; the rows of query and key matrices, which
// GGUF files of the llama family interleave for another rotary convention; norm weights, to which those of
// Gemma files have 1 added; experts, which GGUF stacks in one tensor; rotary scaling, which GGUF may store
// as a tensor of factors; and the vocabulary, which GGUF spells as arrays.
//
// A file whose architecture is "troupe" is a Hugging Face directory in one file, as `troupe quantize` writes it: the
// directory's own files in the metadata, and its tensors by their own names.
//
// Step 5. In: a GGUF file. Out: the files and tensors of a model. Next: actors/tokenizer and
// actors/compute/model, which read them.
package checkpoint
