package tokenizers

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

var (
	oracleDir   = flag.String("oracle", "", "directory with NAME.json and NAME.jsonl of scripts/tokenizers_oracle.py")
	oracleFails = flag.Int("oracle-fails", 5, "differences to print for each tokenizer")
)

// oracleRow is what the reference library made of a text, and of some ids.
type oracleRow struct {
	Text    string
	Bytes   string // in hexadecimal, instead of Text
	Plain   []int32
	Special []int32
	IDs     []int32
	Decoded string
	Skipped string
}

// TestOracle compares with the reference: on a small part of its answers in testdata always, and on those in
// the directory of the flag -oracle, if it is given.
func TestOracle(t *testing.T) {
	t.Parallel()
	dirs := []string{filepath.Join("testdata", "oracle")}
	if *oracleDir != "" {
		dirs = append(dirs, *oracleDir)
	}
	for _, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no .jsonl files in %s", dir)
		}
		for _, path := range paths {
			t.Run(filepath.Base(path), func(t *testing.T) {
				data, err := readMaybeGzip(strings.TrimSuffix(path, "l"))
				if err != nil {
					t.Fatal(err)
				}
				tok, err := Load(data)
				if err != nil {
					t.Fatal(err)
				}
				runOracle(t, tok, path)
			})
		}
	}
}

func runOracle(t *testing.T, tok *Tokenizer, path string) {
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	rows, fails := 0, 0
	rng := rand.New(rand.NewPCG(1, 2))
	for lines.Scan() {
		var row oracleRow
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		if row.Bytes != "" {
			raw, err := hex.DecodeString(row.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			row.Text = string(raw)
		}
		rows++
		if !checkRow(t, tok, row, rng, fails < *oracleFails) {
			fails++
		}
	}
	if err := lines.Err(); err != nil || rows == 0 {
		t.Fatalf("%d rows, %v", rows, err)
	}
	if fails > 0 {
		t.Errorf("%d of %d rows differ", fails, rows)
	} else {
		t.Logf("%d rows agree", rows)
	}
}

// checkRow compares one row, and Decode with DecodeStream.
func checkRow(t *testing.T, tok *Tokenizer, row oracleRow, rng *rand.Rand, verbose bool) bool {
	ok := true
	differ := func(what string, got, want any) {
		ok = false
		if verbose {
			t.Errorf("%s of %q:\n got %v\nwant %v", what, row.Text, got, want)
		}
	}
	for _, c := range []struct {
		addSpecial bool
		want       []int32
	}{{false, row.Plain}, {true, row.Special}} {
		got, err := tok.Encode(row.Text, c.addSpecial)
		if err != nil || !slices.Equal(got, c.want) {
			differ("ids", got, c.want)
		}
	}
	for _, c := range []struct {
		skip bool
		want string
	}{{false, row.Decoded}, {true, row.Skipped}} {
		if got := tok.Decode(row.IDs, c.skip); got != c.want {
			differ("decoded", []any{row.IDs, got}, c.want)
		}
		tail := rng.IntN(len(row.IDs) + 1)
		checkStream(t, tok, row.IDs, c.skip, tail)
	}
	return ok
}

// checkStream checks that a stream returns whole characters, and in all what Decode returns; also when its
// first ids are given as the prompt's tail.
func checkStream(t *testing.T, tok *Tokenizer, ids []int32, skip bool, tail int) {
	t.Helper()
	want := tok.Decode(ids, skip)
	var all strings.Builder
	push := func(text string) {
		if !utf8.ValidString(text) {
			t.Errorf("stream of %v returned a part of a character: %q", ids, text)
		}
		all.WriteString(text)
	}
	s := tok.NewStream(skip)
	for _, id := range ids {
		push(s.Push(id))
	}
	push(s.Flush())
	if all.String() != want {
		t.Errorf("stream of %v: %q, want %q", ids, all.String(), want)
	}
	all.Reset()
	s = tok.NewStream(skip, ids[:tail]...)
	for _, id := range ids[tail:] {
		push(s.Push(id))
	}
	push(s.Flush())
	prompt := tok.Decode(ids[:tail], skip)
	for prompt != "" && want != "" { // the text after what both have in common
		a, width := utf8.DecodeRuneInString(prompt)
		b, _ := utf8.DecodeRuneInString(want)
		if a != b {
			break
		}
		prompt, want = prompt[width:], want[width:]
	}
	if all.String() != want {
		t.Errorf("stream of %v after %v: %q, want %q", ids[tail:], ids[:tail], all.String(), want)
	}
}
