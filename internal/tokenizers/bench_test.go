package tokenizers

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var (
	benchText       = flag.String("text", "", "file to encode in benchmarks instead of made-up text")
	benchTokenizers = flag.String("tokenizers", "gpt2,llama3.1,qwen3,mistral-7b-v0.1,llama2-spm-derived", "tokenizers to encode with in benchmarks: names in ../shared or files, separated by commas")
)

// benchTokenizer loads one of benchTokenizers.
func benchTokenizer(b *testing.B, name string) *Tokenizer {
	b.Helper()
	if !strings.HasSuffix(name, ".json") {
		return sharedTokenizer(b, name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	tok, err := Load(data)
	if err != nil {
		b.Fatal(err)
	}
	return tok
}

// benchTexts returns a long text and short prompts, which are its lines of 40 characters or more.
func benchTexts(b *testing.B) (long string, short []string) {
	b.Helper()
	long = strings.Repeat("The quick brown fox can't jump over 12345 lazy dogs, naïve café; 中文字符 и русский текст.\n\n", 1000)
	if *benchText != "" {
		data, err := os.ReadFile(*benchText)
		if err != nil {
			b.Fatal(err)
		}
		long = string(data)
	}
	for line := range strings.Lines(long) {
		if line = strings.TrimSuffix(line, "\n"); len([]rune(line)) >= 40 && len(short) < 1000 {
			short = append(short, line)
		}
	}
	return long, short
}

func BenchmarkEncode(b *testing.B) {
	for _, name := range strings.Split(*benchTokenizers, ",") {
		long, short := benchTexts(b)
		for kind, texts := range map[string][]string{"long": {long}, "short": short} {
			b.Run(strings.TrimSuffix(filepath.Base(name), ".json")+"/"+kind, func(b *testing.B) {
				tok := benchTokenizer(b, name)
				size := 0
				for _, text := range texts {
					size += len(text)
				}
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					for _, text := range texts {
						if _, err := tok.Encode(text, false); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{"llama3.1", "mistral-7b-v0.1"} {
		tok := sharedTokenizer(b, name)
		long, _ := benchTexts(b)
		ids, err := tok.Encode(long, false)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/whole", func(b *testing.B) {
			b.SetBytes(int64(len(long)))
			for b.Loop() {
				tok.Decode(ids, true)
			}
		})
		b.Run(name+"/stream", func(b *testing.B) {
			b.ReportAllocs()
			s := tok.NewStream(true)
			i := 0
			for b.Loop() {
				s.Push(ids[i%len(ids)])
				i++
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, name := range []string{"llama3.1", "mistral-7b-v0.1"} {
		b.Run(name, func(b *testing.B) {
			data, err := readMaybeGzip(sharedDir(b) + "/" + name + "/tokenizer.json")
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Load(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOneCharacter encodes a megabyte of one character, which must not take quadratic time.
func BenchmarkOneCharacter(b *testing.B) {
	for _, name := range []string{"llama3.1", "mistral-7b-v0.1"} {
		for label, c := range map[string]string{"a": "a", "space": " ", "newline": "\n", "中": "中", "unknown": "\U000E0041"} {
			b.Run(name+"/"+label, func(b *testing.B) {
				tok := sharedTokenizer(b, name)
				text := strings.Repeat(c, 1_000_000/len(c))
				b.SetBytes(int64(len(text)))
				for b.Loop() {
					if _, err := tok.Encode(text, false); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
