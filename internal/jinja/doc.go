// Package jinja renders chat templates: the dialect of Jinja2 that model
// vendors write into tokenizer_config.json and that Hugging Face transformers
// renders with an ImmutableSandboxedEnvironment (trim_blocks, lstrip_blocks, the
// loopcontrols extension, the generation tag, raise_exception, strftime_now and
// its own tojson).
//
// # Why it is written here
//
// A chat template is untrusted code that comes with a model, and its output must
// match, byte for byte, what the model was trained on. The existing Go
// implementations (gonja and pongo2) aim at web pages: they write values in Go's
// notation instead of Python's repr, iterate maps in random or sorted order, have
// no bound on steps, memory or recursion, and report no column. Making one of them
// exact would mean replacing its values, filters and evaluator, which is most of
// it. The language chat templates use is small enough to own: a lexer, a
// recursive-descent parser and a tree-walking evaluator.
//
// # What it promises
//
//   - Values behave as Python's: undefined, truthiness, int and float, code-point
//     indexing, slices, one-shot generators, insertion-ordered dicts, repr, str
//     methods. What raises in Python is an error here. [WithDialect] selects the
//     conventions of huggingface.js instead, for templates written against it.
//   - A template reads its context and nothing else. Attribute access reaches data
//     and a fixed list of pure methods; data is never modified. include, import,
//     extends and block are refused.
//   - Every render is bounded by [Limits]: steps (which memory and scanned bytes
//     also consume), output bytes and depth. A hostile template gets an error.
//   - Every [Error] names line and column, and quotes the source there.
//
// # Known differences from Jinja2
//
// Integers computed by a template are 64 bits wide and overflow is an error
// (larger ones in the context print exactly); safe and escape return plain
// strings, so escaping twice escapes twice; filters evaluate their input eagerly;
// recursive loops, autoescape, cycler, joiner and lipsum are refused.
//
// Step 2a. In: messages and tools of a chat request. Out: the prompt's text.
// Next: actors/tokenizer turns it into ids.
package jinja
