package checkpoint

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// Keys of the vocabulary.
const (
	tokensKey = "tokenizer.ggml.tokens"
	kindsKey  = "tokenizer.ggml.token_type"
	bosKey    = "tokenizer.ggml.bos_token_id"
	eosKey    = "tokenizer.ggml.eos_token_id"
)

// Kinds of tokens, as tokenizer.ggml.token_type numbers them.
const (
	kindNormal      = 1
	kindUnknown     = 2
	kindControl     = 3
	kindUserDefined = 4
)

// The patterns that cut text before byte-level BPE, by family.
const (
	llama3Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	qwen2Pattern  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// splitting is how a byte-level BPE vocabulary wants text cut.
type splitting struct {
	pattern      string // "" is GPT-2's own, which the ByteLevel step has built in
	digits       bool   // each digit apart first
	normalizer   any
	ignoreMerges bool // a piece that is a token stays whole
	addBOS       bool // where the file does not say
}

// splittings lists the names that tokenizer.ggml.pre may have.
var splittings = map[string]splitting{
	"gpt-2":            {},
	"phi-2":            {},
	"olmo":             {},
	"smollm":           {digits: true},
	"starcoder":        {digits: true},
	"refact":           {digits: true},
	"command-r":        {digits: true},
	"codeshell":        {digits: true},
	"exaone":           {digits: true},
	"llama-bpe":        {pattern: llama3Pattern, ignoreMerges: true, addBOS: true},
	"llama3":           {pattern: llama3Pattern, ignoreMerges: true, addBOS: true},
	"llama-v3":         {pattern: llama3Pattern, ignoreMerges: true, addBOS: true},
	"smaug-bpe":        {pattern: llama3Pattern},
	"dbrx":             {pattern: llama3Pattern},
	"qwen2":            {pattern: qwen2Pattern, normalizer: map[string]any{"type": "NFC"}},
	"deepseek-r1-qwen": {pattern: qwen2Pattern},
	"stablelm2":        {pattern: qwen2Pattern},
}

// object is a JSON object.
type object = map[string]any

// tokenizer returns what tokenizer.json would say.
func tokenizer(f *gguf.File) (object, error) {
	m := &metadata{file: f}
	tokens, kinds := m.texts(tokensKey), m.ints(kindsKey)
	if len(tokens) == 0 {
		m.failf("metadata %q is missing or empty: the file has no vocabulary", tokensKey)
	}
	if kinds != nil && len(kinds) != len(tokens) {
		m.failf("metadata %q has %d entries, want one for each of the %d tokens", kindsKey, len(kinds), len(tokens))
	}
	if err := m.err(); err != nil {
		return nil, err
	}
	if kinds == nil {
		kinds = slices.Repeat([]int64{kindNormal}, len(tokens))
	}
	vocab := make(map[string]int, len(tokens))
	for id, token := range tokens {
		if first, twice := vocab[token]; twice {
			m.failf("metadata %q: tokens %d and %d are both %q", tokensKey, first, id, clip(token))
			return nil, m.err()
		}
		vocab[token] = id
	}
	out := object{"version": "1.0", "added_tokens": addedTokens(tokens, kinds)}
	addBOS := false
	switch kind := m.text("tokenizer.ggml.model", ""); kind {
	case "gpt2":
		addBOS = m.byteLevel(out, vocab)
	case "llama":
		m.sentencePiece(out, tokens, kinds, vocab)
		addBOS = true
	default:
		m.failf("metadata \"tokenizer.ggml.model\" is %q, supported are \"gpt2\" (byte-level BPE) and \"llama\" (sentencepiece BPE)", clip(kind))
	}
	m.specialTokens(out, tokens, addBOS)
	return out, m.err()
}

// addedTokens lists the tokens that are found in text before it is cut.
func addedTokens(tokens []string, kinds []int64) []object {
	list := []object{}
	for id, kind := range kinds {
		if kind == kindControl || kind == kindUnknown || kind == kindUserDefined {
			list = append(list, object{"id": id, "content": tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
				"normalized": false, "special": kind != kindUserDefined})
		}
	}
	return list
}

// byteLevel describes a vocabulary of GPT-2's kind and says whether texts begin with BOS by default.
func (m *metadata) byteLevel(out object, vocab map[string]int) (addBOS bool) {
	const key = "tokenizer.ggml.pre"
	pre := m.text(key, "")
	how, ok := splittings[pre]
	if !ok {
		m.failf("metadata %q is %q, supported are %s; other names cut text in ways that are not known here", key, clip(pre),
			strings.Join(slices.Sorted(maps.Keys(splittings)), ", "))
		return false
	}
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": how.pattern == ""}
	steps := []object{byteLevel}
	switch {
	case how.pattern != "":
		steps = []object{{"type": "Split", "pattern": object{"Regex": how.pattern}, "behavior": "Isolated", "invert": false}, byteLevel}
	case how.digits:
		steps = []object{{"type": "Digits", "individual_digits": true}, byteLevel}
	}
	merges := m.texts("tokenizer.ggml.merges")
	if merges == nil {
		m.failf("metadata \"tokenizer.ggml.merges\" is missing")
	}
	out["normalizer"] = how.normalizer
	out["pre_tokenizer"] = object{"type": "Sequence", "pretokenizers": steps}
	out["decoder"] = object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}
	out["model"] = object{"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": how.ignoreMerges}
	return how.addBOS
}

// sentencePiece describes a sentencepiece BPE vocabulary with byte fallback.
func (m *metadata) sentencePiece(out object, tokens []string, kinds []int64, vocab map[string]int) {
	const key = "tokenizer.ggml.scores"
	scores := m.floats(key)
	if len(scores) != len(tokens) {
		m.failf("metadata %q has %d entries, want one for each of the %d tokens", key, len(scores), len(tokens))
		return
	}
	space := object{"type": "Replace", "pattern": object{"String": " "}, "content": "▁"}
	normalizers := []object{space}
	decoders := []object{{"type": "Replace", "pattern": object{"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}}
	if m.boolean("tokenizer.ggml.add_space_prefix", true) {
		normalizers = []object{{"type": "Prepend", "prepend": "▁"}, space}
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	model := object{"type": "BPE", "vocab": vocab, "merges": mergesOf(tokens, kinds, scores, vocab), "byte_fallback": true, "fuse_unk": true}
	if id := m.integer("tokenizer.ggml.unknown_token_id", -1); id >= 0 && id < len(tokens) {
		model["unk_token"] = tokens[id]
	}
	out["normalizer"] = object{"type": "Sequence", "normalizers": normalizers}
	out["decoder"] = object{"type": "Sequence", "decoders": decoders}
	out["model"] = model
}

// mergesOf turns the scores of pieces, by which sentencepiece chooses what to merge, into ranked merges:
// every way to make a piece of two others, best score first.
func mergesOf(tokens []string, kinds []int64, scores []float64, vocab map[string]int) [][2]string {
	type merge struct {
		left, right int
		score       float64
	}
	var list []merge
	normal := func(piece string) (int, bool) {
		id, ok := vocab[piece]
		return id, ok && kinds[id] == kindNormal
	}
	for id, token := range tokens {
		if kinds[id] != kindNormal || len(token) > pieceBytesMax {
			continue
		}
		for at := range token {
			left, ok := normal(token[:at])
			if !ok {
				continue
			}
			if right, ok := normal(token[at:]); ok {
				list = append(list, merge{left, right, scores[id]})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b merge) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.left, b.left), cmp.Compare(a.right, b.right))
	})
	out := make([][2]string, len(list))
	for i, l := range list {
		out[i] = [2]string{tokens[l.left], tokens[l.right]}
	}
	return out
}

// pieceBytesMax bounds the pieces that merges are sought for, so that one long token cannot take quadratic
// time; real ones have at most a few dozen bytes.
const pieceBytesMax = 1 << 10

// specialTokens adds the step that puts BOS before and EOS after a text.
func (m *metadata) specialTokens(out object, tokens []string, addBOS bool) {
	single, used := []object{{"Sequence": object{"id": "A", "type_id": 0}}}, object{}
	pair := []object{{"Sequence": object{"id": "A", "type_id": 0}}, {"Sequence": object{"id": "B", "type_id": 1}}}
	special := func(key string) (object, bool) {
		id := m.integer(key, -1)
		if id < 0 || id >= len(tokens) {
			if id >= 0 {
				m.failf("metadata %q is %d, outside the vocabulary of %d", key, id, len(tokens))
			}
			return nil, false
		}
		used[tokens[id]] = object{"id": tokens[id], "ids": []int{id}, "tokens": []string{tokens[id]}}
		return object{"SpecialToken": object{"id": tokens[id], "type_id": 0}}, true
	}
	if m.boolean("tokenizer.ggml.add_bos_token", addBOS) {
		if bos, ok := special(bosKey); ok {
			single, pair = slices.Insert(single, 0, bos), slices.Insert(pair, 0, bos)
		}
	}
	if m.boolean("tokenizer.ggml.add_eos_token", false) {
		if eos, ok := special(eosKey); ok {
			single, pair = append(single, eos), append(pair, eos)
		}
	}
	if len(used) > 0 {
		out["post_processor"] = object{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used}
	}
}

// tokenizerConfig returns what tokenizer_config.json would say: the chat template and what it calls the
// special tokens.
func tokenizerConfig(f *gguf.File) (object, error) {
	m := &metadata{file: f}
	tokens := m.texts(tokensKey)
	out := object{}
	for key, name := range map[string]string{bosKey: "bos_token", eosKey: "eos_token",
		"tokenizer.ggml.unknown_token_id": "unk_token", "tokenizer.ggml.padding_token_id": "pad_token"} {
		if id := m.integer(key, -1); id >= 0 && id < len(tokens) {
			out[name] = tokens[id]
		}
	}
	if template := m.text("tokenizer.chat_template", ""); template != "" {
		out["chat_template"] = template
	}
	return out, m.err()
}
