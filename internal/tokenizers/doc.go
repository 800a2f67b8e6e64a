// Package tokenizers turns text into token ids and back, as a Hugging Face tokenizer.json describes it.
//
// It gives the same ids and the same text as the tokenizers library of Hugging Face (PyPI tokenizers 0.23.3),
// which scripts/tokenizers_oracle.py checks on random and adversarial text. A file goes through the same
// steps here as there:
//
//	added tokens → normalizer → pre-tokenizers → model → post-processor       Encode
//	decoder stages                                                            Decode, DecodeStream
//
// The models are BPE, Unigram, WordPiece and WordLevel. Offsets, pairs of texts, padding and BPE dropout are
// not provided. A file that asks for something unsupported fails to load, with an error that names it.
//
// It differs from the library on purpose where that is random, panics or is without bound: ids of a vocabulary
// must be unique; of two added tokens that normalization makes equal the lower id is found, and one that it
// makes empty never is; a limit on length below the number of special tokens is an error; replacements, special
// tokens and the time of patterns have limits; tokens that are searched for have at most 4096 bytes. Patterns
// lack what package onig says.
//
// What makes it fast: patterns run on the scanner of package onig; a byte-level BPE model takes bytes as they
// are, without spelling them out; sentencepiece-style text is cut where no merge can reach across; pieces are
// remembered in a bounded cache without locks. Long pieces are merged with a heap, so that no text takes
// quadratic time.
//
// Step 2. In: the text of a request. Out: the ids of its prompt; later, the text of generated ids. Next:
// actors/tokenizer, which renders chat templates around it.
package tokenizers
