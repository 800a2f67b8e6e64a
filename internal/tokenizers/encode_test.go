package tokenizers

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// golden loads one of the small tokenizers in testdata.
func golden(t testing.TB, name string) *Tokenizer {
	t.Helper()
	data, err := readMaybeGzip(filepath.Join("testdata", "oracle", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Load(data)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

var testAlphabet = []rune("aabbccddeeetthhiiss nn  \u2581\u2581'sS019.,!?-_\n\t\r<>|/ßéÉïñ中文あ한😀\u0301\u0308\u0345\u1161\u200d\u00a0\u3000٣²")

func randomText(rng *rand.Rand, most int) string {
	var b strings.Builder
	for range rng.IntN(most + 1) {
		r := testAlphabet[rng.IntN(len(testAlphabet))]
		for range 1 + rng.IntN(2)*rng.IntN(4) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// TestMergeStrategiesAgree holds the two ways to merge against each other and against a direct reading of the
// definition: merge the pair of lowest rank, the leftmost of equals, until there is none.
func TestMergeStrategiesAgree(t *testing.T) {
	t.Parallel()
	const seed = 3
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 2000 {
		merges := newPairTable(64)
		for rank := range 60 { // ids 0 to 3 are characters, 4 and up come from merges, in any order of rank
			merges.set(int32(rng.IntN(4+rank)), int32(rng.IntN(4+rank/4)), mergeEntry(rank*17%60, int32(4+rank)))
		}
		ids := make([]int32, rng.IntN(40))
		for i := range ids {
			ids[i] = int32(rng.IntN(4))
		}
		want := slices.Clone(ids)
		for {
			best, at := noMerge, -1
			for i := range max(len(want)-1, 0) {
				if e := merges.get(want[i], want[i+1]); e>>32 < best>>32 {
					best, at = e, i
				}
			}
			if at < 0 {
				break
			}
			want = append(append(slices.Clone(want[:at]), entryID(best)), want[at+2:]...)
		}
		short := merges.mergeShort(&mergeScratch{ids: slices.Clone(ids)})
		long := merges.mergeLong(&mergeScratch{ids: slices.Clone(ids)})
		if !slices.Equal(short, want) || !slices.Equal(long, want) {
			t.Fatalf("seed %d, round %d: %v:\nshort %v\nlong  %v\nwant  %v", seed, round, ids, short, long, want)
		}
	}
}

// TestBoundariesChangeNothing merges texts whole and in parts.
func TestBoundariesChangeNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"spm-llama", "spm-gemma"} {
		tok, whole := golden(t, name), golden(t, name)
		whole.model.(*bpe).boundaries = nil
		rng := rand.New(rand.NewPCG(5, 0))
		for range 3000 {
			text := randomText(rng, 60)
			got, err := tok.Encode(text, false)
			if err != nil {
				t.Fatal(err)
			}
			want, err := whole.Encode(text, false)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("%s: %q: %v in parts, %v whole (%v)", name, text, got, want, err)
			}
		}
	}
}

// TestConcurrentUse encodes and decodes in many goroutines; the race detector watches the shared caches.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bytes-o200k", "spm-llama", "unigram-t5", "wordpiece-bert"} {
		tok := golden(t, name)
		rng := rand.New(rand.NewPCG(9, 0))
		texts := make([]string, 200)
		want := make([][]int32, len(texts))
		for i := range texts {
			texts[i] = randomText(rng, 40)
			var err error
			if want[i], err = tok.Encode(texts[i], true); err != nil {
				t.Fatal(err)
			}
		}
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				got, err := golden(t, name).EncodeBatch(texts, true)
				if err != nil {
					t.Error(err)
				}
				for i := range got {
					if !slices.Equal(got[i], want[i]) {
						t.Errorf("%s: %q: got %v, want %v", name, texts[i], got[i], want[i])
					}
				}
				for i, text := range texts {
					if ids, err := tok.Encode(text, true); err != nil || !slices.Equal(ids, want[i]) {
						t.Errorf("%s: %q: got %v (%v), want %v", name, text, ids, err, want[i])
					}
				}
			})
		}
		group.Wait()
	}
}

func TestEncodeBatchError(t *testing.T) {
	t.Parallel()
	text := strings.Replace(tiny, `"type": "BPE"`, `"type": "WordLevel"`, 1)
	text = strings.Replace(text, `"unk_token": null`, `"unk_token": "none"`, 1)
	tok, err := Load([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.EncodeBatch([]string{"ab", "zz", "yy"}, false); err == nil || !strings.Contains(err.Error(), "text 1") {
		t.Errorf("error %v", err)
	}
	if out, err := tok.EncodeBatch(nil, false); err != nil || len(out) != 0 {
		t.Errorf("no texts: %v, %v", out, err)
	}
}

// TestInvalidUTF8 checks that each maximal invalid part counts as one U+FFFD; the expected texts are Python's.
func TestInvalidUTF8(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\xffb": "a\uFFFDb", "\xe4\xb8": "\uFFFD", "\xe4\xb8x": "\uFFFDx", "\xe4\xe4\xb8\xad": "\uFFFD中",
		"\xed\xa0\x80": "\uFFFD\uFFFD\uFFFD", "\xf0\x9f\x98": "\uFFFD", "\xf0\x80\x80": "\uFFFD\uFFFD\uFFFD",
		"\xc0\xaf": "\uFFFD\uFFFD", "\xf4\x90\x80\x80": "\uFFFD\uFFFD\uFFFD\uFFFD", "ok": "ok", "\uFFFD": "\uFFFD",
		"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf": "\uFFFD\uFFFD\uFFFD\uFFFD",
	} {
		if got := validText(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		var streamed, rest []byte
		for i := range len(text) {
			streamed, rest = appendLossy(streamed, append(rest, text[i]), false)
			rest = slices.Clone(rest)
		}
		streamed, _ = appendLossy(streamed, rest, true)
		if string(streamed) != want {
			t.Errorf("%q byte by byte: got %q, want %q", text, streamed, want)
		}
	}
}

// TestNormalForms compares with x/text on text without long runs of marks, in which x/text breaks them up.
func TestNormalForms(t *testing.T) {
	t.Parallel()
	alphabet := []rune("aAoeE\u0301\u0308\u0323\u0345\u0327\u030a\u1100\u1161\u11a8가각ÅΩﬁ①ſ\u0f71\u0f72\u0f74が\u3099ệ\u0958क़\u2126\u212b\U0001d15e…½")
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	for name, want := range forms {
		f := newForm(name)
		rng := rand.New(rand.NewPCG(1, 1))
		for range 5000 {
			var b strings.Builder
			for range rng.IntN(12) {
				b.WriteRune(alphabet[rng.IntN(len(alphabet))])
			}
			if got := f.normalize(b.String()); got != want.String(b.String()) {
				t.Fatalf("%s of %+q: got %+q, want %+q", name, b.String(), got, want.String(b.String()))
			}
		}
		long := "a" + strings.Repeat("\u0301\u0323", 200)
		if got := f.normalize(long); strings.Contains(got, "\u034f") {
			t.Errorf("%s broke up a run of marks", name)
		}
	}
}

// TestStreamAfterPrompt checks what a stream returns after a prompt that ends in the middle of something.
func TestStreamAfterPrompt(t *testing.T) {
	t.Parallel()
	tok := golden(t, "spm-llama")
	id := func(token string) int32 {
		id, ok := tok.TokenToID(token)
		if !ok {
			t.Fatalf("no token %q", token)
		}
		return id
	}
	the, a := id("\u2581the"), id("a")
	bytes := []int32{id("<0xE4>"), id("<0xB8>"), id("<0xAD>")}
	for _, c := range []struct {
		tail, ids []int32
		want      []string // of each Push, and of Flush
	}{
		{nil, []int32{the, the}, []string{"the", " the", ""}},
		{[]int32{the}, []int32{the, the}, []string{" the", " the", ""}},
		{bytes[:1], []int32{bytes[1], bytes[2], a}, []string{"", "", "中a", ""}},
		{bytes, []int32{a}, []string{"a", ""}},
		{nil, bytes[:2], []string{"", "", "\uFFFD\uFFFD"}},
		{bytes[:2], []int32{a}, []string{"a", ""}},
		{[]int32{the}, nil, []string{""}},
		{nil, []int32{-1, 1 << 30, a}, []string{"", "", "a", ""}},
	} {
		s := tok.NewStream(true, c.tail...)
		var got []string
		for _, id := range c.ids {
			got = append(got, s.Push(id))
		}
		if got = append(got, s.Flush()); !slices.Equal(got, c.want) {
			t.Errorf("%v after %v: got %q, want %q", c.ids, c.tail, got, c.want)
		}
	}
}

// TestStripDecoder checks stripping at both ends of tokens that come whole and in fragments.
func TestStripDecoder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		start, stop int
		fragments   []string
		want        string
	}{
		{1, 0, []string{"  a "}, " a "}, {2, 1, []string{"  a  "}, "a "}, {0, 3, []string{"a ", " b", "  ", "", " "}, "a  b"},
		{1, 1, []string{" ", " ", "x", " ", " ", "y", " "}, " x  y"}, {5, 5, []string{"   "}, ""}, {1, 1, nil, ""},
	} {
		out := &sink{}
		s := &stripStage{next: out, content: ' ', start: c.start, stop: c.stop}
		for _, fragment := range c.fragments {
			s.push(fragment, false)
		}
		s.push("", true)
		if got := string(out.text); got != c.want {
			t.Errorf("%d and %d of %q: got %q, want %q", c.start, c.stop, c.fragments, got, c.want)
		}
	}
}

// TestOneCharacterRuns checks that a long run of one character does not take quadratic time: a quadratic
// algorithm would take minutes.
func TestOneCharacterRuns(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bytes-o200k", "spm-llama", "unigram-bytes", "wordpiece-bert", "bpe-prefix"} {
		tok := golden(t, name)
		for _, c := range []string{"a", " ", "\n", "0", "!", "中", "\u0301", "é"} {
			ids, err := tok.Encode(strings.Repeat(c, 60_000), false)
			if err != nil {
				t.Errorf("%s: %q: %v", name, c, err)
			}
			if text := tok.Decode(ids, false); !utf8.ValidString(text) {
				t.Errorf("%s: %q: decoded to invalid UTF-8", name, c)
			}
		}
	}
}

func TestTrie(t *testing.T) {
	t.Parallel()
	keys := map[string]int32{"a": 1, "abc": 2, "中": 3, "b": 4}
	for i := range 20 { // more edges than are searched one by one
		keys[fmt.Sprintf("x%c", 'a'+i)] = int32(100 + i)
	}
	trie := newTrie(keys)
	for _, c := range []struct {
		text       string
		start, end int
		value      int32
	}{
		{"zzabd", 2, 3, 1}, {"zabcd", 1, 4, 2}, {"中", 0, 3, 3}, {"xt", 0, 2, 119}, {"xu", -1, 0, 0}, {"", -1, 0, 0}, {"\xe4\xb8", -1, 0, 0},
	} {
		start, end, value, ok := trie.find(c.text, 0)
		if ok != (c.start >= 0) || ok && (start != c.start || end != c.end || value != c.value) {
			t.Errorf("%q: %d to %d is %d, %v", c.text, start, end, value, ok)
		}
	}
}

// FuzzEncode checks on any text that encoding and decoding neither panic nor produce ids out of range, that
// invalid UTF-8 counts as U+FFFD, and that streams agree with Decode.
func FuzzEncode(f *testing.F) {
	for _, text := range []string{"", "Hello, world! don't", "中文 naïve\r\n\r\n", "a\xff\xe4\xb8b", "<s><unk>\u2581\u2581  123456", "e\u0301\u0323 가\u11a8"} {
		f.Add(text)
	}
	var toks []*Tokenizer
	for _, name := range []string{"bytes-gpt2-prefix", "bytes-o200k", "spm-metaspace-first", "spm-llama", "unigram-bytes", "wordpiece-bert", "bpe-suffix"} {
		toks = append(toks, golden(f, name))
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range toks {
			ids, err := tok.Encode(text, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if _, ok := tok.IDToToken(id); !ok {
					t.Errorf("%q: id %d is not in the vocabulary", text, id)
				}
			}
			again, err := tok.Encode(strings.ToValidUTF8(validText(text), "!"), true)
			if err != nil || !slices.Equal(ids, again) {
				t.Errorf("%q: %v, with U+FFFD %v (%v)", text, ids, again, err)
			}
			checkStream(t, tok, ids, true, len(ids)/3)
		}
	})
}

// TestAddedTokenOverlaps checks which added tokens are found where they overlap; the ids are the reference's.
func TestAddedTokenOverlaps(t *testing.T) {
	t.Parallel()
	load := func(tokens ...string) *Tokenizer { // each is flags, a bar and the content
		var list []string
		for i, token := range tokens {
			flags, content, _ := strings.Cut(token, "|")
			has := func(flag string) bool { return strings.Contains(flags, flag) }
			list = append(list, fmt.Sprintf(`{"id": %d, "content": %q, "single_word": %v, "lstrip": %v, "rstrip": %v, "normalized": false, "special": false}`,
				i+1, content, has("w"), has("l"), has("r")))
		}
		tok, err := Load([]byte(`{"added_tokens": [` + strings.Join(list, ",") +
			`], "model": {"type": "WordLevel", "vocab": {"u": 0}, "unk_token": "u"}}`))
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	check := func(tok *Tokenizer, want map[string][]int32) {
		for text, ids := range want {
			if got, err := tok.Encode(text, false); err != nil || !slices.Equal(got, ids) {
				t.Errorf("%q: got %v (%v), want %v", text, got, err, ids)
			}
		}
	}
	check(load("r|<r>", "| x", "|  ", "l|<l>", "r|\n\n"), map[string][]int32{
		"<r>  xy": {1, 3, 0}, "<r>  <l>z": {1, 3, 4, 0}, "<r>   xz  x": {1, 3, 2, 0, 3, 0},
		"\n\n\n\n\n\nz": {5, 5, 5, 0}, "  <l>   <l>": {3, 4, 3, 4}, "<r> \n\n\n\n": {1, 5, 5},
	})
	check(load("r|<r>", "| x", "l|  ", "l|<l>", "lr|<b>", "w|word", "|wo"), map[string][]int32{
		"<r>  y": {1, 0}, "a <b> <b>  word": {0, 5, 5, 6}, "xword word_ word.": {0, 6, 0}, "wo word wor": {7, 0, 6, 0, 7, 0},
	})
}
