package tokenizers

import (
	"bytes"
	"testing"
	"time"
)

// TestTokenBytesJoinToTheText: the bytes of an encoding's tokens are the text, whatever is cut in the middle of a character.
func TestTokenBytesJoinToTheText(t *testing.T) {
	const text = "a Hello, wörld! 日本語 🙂🙃\n\tfunc main() { return 42 }  two  spaces é\u0301"
	for _, name := range []string{"gpt2", "llama2-spm-derived", "llama3.1", "mistral-7b-v0.1", "phi-3-mini", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			tok := sharedTokenizer(t, name)
			began := time.Now()
			all := tok.Bytes(true)
			t.Logf("%d tokens in %v", len(all), time.Since(began))
			ids, err := tok.Encode(text, false)
			if err != nil {
				t.Fatal(err)
			}
			var joined []byte
			for _, id := range ids {
				joined = append(joined, all[id]...)
			}
			// A sentencepiece-style tokenizer puts a space in front of a text.
			if got := bytes.TrimPrefix(joined, []byte(" ")); string(got) != text {
				t.Errorf("got %q\nwant %q", got, text)
			}
		})
	}
}
