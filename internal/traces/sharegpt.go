package traces

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of one conversation of a ShareGPT file.
const (
	conversationBytesMax = 16 << 20
	turnsMax             = 4096
)

// shareGPT reads conversations: a JSON array of objects (or objects one after another) with "conversations", a list
// of {"from", "value"}, or "messages", a list of {"role", "content"}. Every answer is a request whose prompt is all
// that was said before. There are no times: all requests arrive at once until something gives them arrivals.
type shareGPT struct {
	json    *json.Decoder
	budget  *budgetReader
	count   func(text string) int
	number  int  // of the conversation, from 1
	array   bool // inside [ ]
	pending []Request
	skipped int
}

type shareTurn struct {
	From    string `json:"from"`
	Role    string `json:"role"`
	Value   string `json:"value"`
	Content string `json:"content"`
}

type shareConversation struct {
	Conversations []shareTurn `json:"conversations"`
	Messages      []shareTurn `json:"messages"`
}

// bytesPerToken is the usual estimate for English text in the vocabularies of today's models.
const bytesPerToken = 4

func estimateTokens(text string) int { return (len(text) + bytesPerToken - 1) / bytesPerToken }

func newShareGPT(r io.Reader, count func(string) int) (Reader, error) {
	if count == nil {
		count = estimateTokens
	}
	b := &budgetReader{r: r, left: conversationBytesMax}
	buffered := bufio.NewReader(b)
	s := &shareGPT{json: json.NewDecoder(buffered), budget: b, count: count}
	first, err := firstByte(buffered)
	if err != nil {
		return nil, empty(err)
	}
	if first == '[' {
		s.array = true
		if _, err := s.json.Token(); err != nil {
			return nil, s.bad("", "%v", err)
		}
	}
	return s, nil
}

// Next returns the next answer of the conversation, or the first of the next one.
func (s *shareGPT) Next() (Request, error) {
	for len(s.pending) == 0 {
		if err := s.read(); err != nil {
			return Request{}, err
		}
	}
	q := s.pending[0]
	s.pending = s.pending[1:]
	return q, nil
}

func (s *shareGPT) read() error {
	if s.array && !s.json.More() {
		if _, err := s.json.Token(); err != nil {
			return s.bad("", "%v", unexpected(err))
		}
		return io.EOF
	}
	s.number++
	s.budget.left = conversationBytesMax
	var c shareConversation
	if err := s.json.Decode(&c); err != nil {
		if errors.Is(err, io.EOF) && !s.array {
			return io.EOF
		}
		return s.bad(jsonField(err), "%v", unexpected(err))
	}
	name, turns := "conversations", c.Conversations
	if len(turns) == 0 {
		name, turns = "messages", c.Messages
	}
	if len(turns) > turnsMax {
		return s.bad(name, "%d turns; at most %d are read", len(turns), turnsMax)
	}
	return s.requests(name, turns)
}

func (s *shareGPT) requests(name string, turns []shareTurn) error {
	var prompt []Segment
	input := 0
	for i, t := range turns {
		text := t.Value + t.Content
		n := s.count(text)
		if n < 0 || n > TokensMax || input > TokensMax-n {
			return s.bad(fmt.Sprintf("%s[%d].value", name, i), "the conversation is longer than %d tokens", TokensMax)
		}
		id := textIdentity(text)
		if isAnswer(t.From + t.Role) {
			if n == 0 || input == 0 {
				s.skipped++ // an empty answer, or one to nothing
			} else {
				s.pending = append(s.pending, Request{Input: int32(input), Output: int32(n), Prompt: prompt[:len(prompt):len(prompt)], Reply: id})
			}
		}
		if n > 0 {
			prompt = append(prompt, Segment{ID: id, Tokens: int32(n)})
			input += n
		}
	}
	return nil
}

func (s *shareGPT) leftOut() int { return s.skipped }

// isAnswer knows the names that ShareGPT, its successors and OpenAI use for the model.
func isAnswer(from string) bool {
	switch from {
	case "gpt", "assistant", "chatgpt", "bing", "bard", "model":
		return true
	}
	return false
}

func textIdentity(text string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, text) // a hash takes anything
	return identity(kindText, h.Sum64())
}

func (s *shareGPT) bad(field, format string, args ...any) error {
	where := fmt.Sprintf("conversation %d: ", s.number)
	if field != "" {
		where += field + ": "
	}
	return schemas.Errorf(schemas.KindInvalid, "trace", where+format, args...).WithParam(field)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// budgetReader bounds what may be read before somebody renews the budget.
type budgetReader struct {
	r    io.Reader
	left int
}

func (b *budgetReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("longer than %d bytes", conversationBytesMax)
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// firstByte looks at the first byte that is not white space (or a byte order mark).
func firstByte(r *bufio.Reader) (byte, error) {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		switch c {
		case ' ', '\t', '\r', '\n', 0xef, 0xbb, 0xbf:
			continue
		}
		return c, r.UnreadByte()
	}
}
