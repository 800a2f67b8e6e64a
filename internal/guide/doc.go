// Package guide computes which tokens may come next, so that an answer satisfies a constraint: any JSON object, a
// JSON Schema, a regular expression, or a grammar. A constraint goes this way:
//
//	source ──▶ grammar IR ──▶ byte-level pushdown automaton ──▶ token masks
//	schema.go  ir.go          program.go, cost.go, state.go     mask.go, maskruns.go, matcher.go
//	regex.go                                                    vocabulary.go, runs.go, stringtokens.go
//	gbnf.go
//
// Frontends write rules over characters. The assembler makes them instructions that read bytes, so that a character
// may be split across tokens; rules and counted repetitions push frames. At run time the automaton is determinized
// lazily: a state is the set of all derivations that fit the text, stacks are hash-consed, and a state remembers its
// successors and its mask. A mask is the walk of the vocabulary's trie from a state (Willard and Louf,
// arXiv:2307.09702; Dong et al., XGrammar, arXiv:2411.15100).
//
// Three things keep masks cheap when a state is new:
//
//   - Walks share prefixes, and skip a subtree where its first byte does not fit.
//   - Inside JSON strings, where most of a vocabulary is allowed, nothing is walked. What every token does in every
//     state of the string automaton is computed once per vocabulary; tokens that close the string are looked up by
//     the text behind the quote (stringtokens.go). Lengths are counters, not states. Repetitions of a character class
//     such as [^"\\]* get the same treatment (runs.go, maskruns.go), also behind a blank or a punctuation mark.
//   - A mask keeps its tokens by what completes the answer after them, as lists where they are few. So it serves all
//     budgets.
//
// Every state knows the number of tokens that suffice to complete the answer (cost.go; Knuth 1977). Masks take the
// number of tokens that are left and never let a sequence into a state from which these do not suffice, so an answer
// is complete even when max_tokens cuts it.
//
// # JSON
//
// Answers are written compactly, with at most one blank after ':' and ','; declared properties come in the order of
// the schema. Where a schema allows more than is generated, answers are a subset of what it allows, never more:
// properties that are not declared are written only if additionalProperties is given and not false, or if none are
// declared; numbers have at most 15 digits on either side of the point, and an exponent of two, or none if they are
// bounded; characters that need no escape have none in strings with a pattern; formats are narrower than their RFCs.
// No name comes twice in an object (names.go), unless a pattern has so few that all are used. User grammars get the same
// for the objects of %json.
//
// Keywords that cannot be honoured are refused with their JSON pointer; so are limits on resources (limits.go), and
// an oneOf whose alternatives are not provably exclusive.
//
// # Grammars
//
// GBNF as llama.cpp writes it, without left recursion. %json {schema} and %regex "expression" are terminals.
//
// Step 5a. In: a constraint and the tokens sampled so far. Out: the bit mask of the tokens that may come next.
// Next: actors/compute, which applies the mask before it samples.
package guide
