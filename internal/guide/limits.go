package guide

// Limits on what a client's constraint may cost. All sources are outside input: what exceeds a limit is refused by
// Compile or Validate with the limit's value, or, where a matcher meets it, makes masks narrower, never wider.
const (
	// sourceBytesMax bounds the text of a schema, regular expression or grammar.
	sourceBytesMax = 1 << 20
	// schemaDepthMax bounds how deep the JSON of a schema nests.
	schemaDepthMax = 96
	// patternDepthMax bounds how deep groups of a regular expression or grammar nest.
	patternDepthMax = 200
	// nodesMax bounds the grammar IR.
	nodesMax = 1 << 18
	// rulesMax bounds the rules of the grammar IR.
	rulesMax = 1 << 13
	// instructionsMax bounds the automaton.
	instructionsMax = 1 << 18
	// repeatMax bounds m and n of {m,n}, and counts of schemas such as maxItems and maxLength.
	repeatMax = 1 << 20
	// unrollMax is the size (copies times nodes) up to which {m,n} is written out instead of counted.
	unrollMax = 32
	// branchesMax bounds the combinations that anyOf, oneOf and allOf of one schema unfold to.
	branchesMax = 1 << 10
	// propertiesMax bounds the properties of one object schema.
	propertiesMax = 1 << 10
	// enumMax bounds the values of one enum.
	enumMax = 1 << 15
	// significantDigitsMax bounds digits of numbers: decimals that differ within 15 significant digits differ as
	// IEEE 754 doubles too, so what holds for the text holds for what a parser reads.
	significantDigitsMax = 15
	// exponentDigitsMax bounds the exponent of unbounded numbers; 15 digits with e±99 stay finite.
	exponentDigitsMax = 2

	// stackDepthMax bounds the pushdown stack, and with it how deep answers nest: common JSON parsers stop at 128.
	stackDepthMax = 120
	// itemsMax bounds the derivations of an ambiguous grammar that are followed at a time; the cheapest are kept.
	itemsMax = 1 << 11
	// walkWorkMax bounds one mask, in items times trie nodes.
	walkWorkMax = 1 << 21
	// cacheBytesMax bounds the states and masks a grammar remembers; beyond it they are forgotten together, as RE2
	// does with its lazy DFA.
	cacheBytesMax = 64 << 20
	// tokenBytesMax bounds the bytes of a token; longer ones are never allowed.
	tokenBytesMax = 1 << 10
	// tokenEdgesMax bounds the multi-byte ways considered where a vocabulary lacks single bytes.
	tokenEdgesMax = 1 << 20
)
