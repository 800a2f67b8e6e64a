package tokenizers

// vocabSlack is how far the largest id of a vocabulary may lie above its number of tokens, so that a small
// file cannot demand a large table.
const vocabSlack = 1 << 20

// maxTokenBytes bounds tokens that are searched for in text, so that a search takes time in proportion to the
// text. Known vocabularies stay below 1 KB.
const maxTokenBytes = 4096

// maxID is the largest id that fits an int32.
const maxID = 1<<31 - 1

// vocab maps tokens to ids and back.
type vocab struct {
	ids    map[string]int32
	tokens []string
	known  []bool
}

func (v *vocab) id(token string) (int32, bool) {
	id, ok := v.ids[token]
	return id, ok
}

func (v *vocab) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(v.tokens) || !v.known[id] {
		return "", false
	}
	return v.tokens[id], true
}

func (v *vocab) size() int { return len(v.ids) }

// loadVocab reads {"token": id, …}. Ids must be unique.
func loadVocab(v value) (vocab, error) {
	type entry struct {
		token string
		id    int32
	}
	var entries []entry
	largest := int32(-1)
	err := v.each(func(token string, raw value) error {
		id, ok := smallInt(raw.raw)
		if !ok {
			raw.path = v.member(token)
			return raw.errorf("want non-negative integer up to %d, found %.30s", maxID, raw.raw)
		}
		entries = append(entries, entry{token, id})
		largest = max(largest, id)
		return nil
	})
	if err != nil {
		return vocab{}, err
	}
	if int(largest) >= len(entries)+vocabSlack {
		return vocab{}, v.errorf("largest id %d is far above the number of tokens, %d", largest, len(entries))
	}
	out := vocab{
		ids:    make(map[string]int32, len(entries)),
		tokens: make([]string, largest+1),
		known:  make([]bool, largest+1),
	}
	for _, e := range entries {
		if old, ok := out.ids[e.token]; ok { // a repeated key: the last counts
			out.tokens[old], out.known[old] = "", false
		}
		if out.known[e.id] {
			return vocab{}, value{path: v.member(e.token)}.errorf("id %d is already that of %.40q", e.id, out.tokens[e.id])
		}
		out.ids[e.token] = e.id
		out.tokens[e.id], out.known[e.id] = e.token, true
	}
	return out, nil
}

// smallInt decodes a whole number up to maxID written in plain digits.
func smallInt(raw string) (int32, bool) {
	if raw == "" || len(raw) > 10 {
		return 0, false
	}
	n := int64(0)
	for i := range len(raw) {
		if raw[i] < '0' || raw[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(raw[i]-'0')
	}
	return int32(n), n <= maxID
}
