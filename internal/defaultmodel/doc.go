// Package defaultmodel carries troupe-tiny, the model that the binary serves
// when it is started without one: a 3.5-million-parameter Llama with its
// tokenizer and chat template, so that a fresh machine answers a request with
// no download.
//
// The model was trained by scripts/train_tiny.py on public-domain books. It
// continues a prompt in readable English; it knows nothing and follows no
// instructions. MODEL_CARD.md beside the weights says what it is made of.
package defaultmodel
