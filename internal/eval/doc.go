// Package eval measures what a model makes of a text: its perplexity, and how far its distributions are from
// another's, usually from the same model's before it was quantized.
//
// The text is cut into windows of one length that overlap. A token is scored once, in the first window that holds
// it, so all but those of the first window have at least window minus stride tokens before them. A model that was
// trained with a token before every text gets it before every window.
package eval
