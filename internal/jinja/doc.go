// Package jinja renders chat templates: the dialect of Jinja2 that model
// vendors write into tokenizer_config.json and that Hugging Face transformers
// renders with an ImmutableSandboxedEnvironment (trim_blocks, lstrip_blocks, the
// loopcontrols extension, the generation tag, raise_exception, strftime_now and
// its own tojson).
//
// # Why it is written here
//
// A chat template is untrusted code that comes with a model, and its output must
// match, byte for byte, what the model was trained on. The Go implementations of
// Jinja aim at web pages. gonja v2.9.1, the closest, renders 38 of huggingface.js' 53
// real templates as expected, 69 of its 157 feature cases, and 345 of the 599 cases in
// testdata/semantics.json as Jinja2 does; it decodes contexts without the order of
// keys, and it bounds neither steps nor memory nor recursion. Making it exact would
// mean replacing its values, filters and evaluator, which is most of it. The language
// is small enough to own: a lexer, a recursive-descent parser, a tree-walking
// evaluator, and tables of filters, tests and methods.
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
// Integers that a template computes are 64 bits wide, and overflow is an error (larger
// ones in the context print exactly). what safe and escape return is a
// plain string to all but +, so escaping twice escapes twice. Filters evaluate their input at once, so errors in
// elements that are never used still count. Tuples cannot be dict keys. A printed
// generator, method or function shows no memory address. Refused or absent: recursive
// loops, blocks, autoescape, \N{...} escapes, cycler, joiner, lipsum, and the filters
// filesizeformat, pprint, random, striptags, urlencode, urlize, wordwrap and xmlattr.
//
// Step 2a. In: messages and tools of a chat request. Out: the prompt's text.
// Next: actors/tokenizer turns it into ids.
package jinja
