package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/schemas"
)

const fileBytesMax = 16 << 20

// saved is a conversation in a file. The fields are those of a chat request, so that the file can be sent as one.
type saved struct {
	Messages []Message `json:"messages"`
	schemas.GenerationParams
}

// save writes a conversation to a file, at once. It replaces only files that hold a conversation.
func (c *Conversation) save(name string) error {
	if _, err := load(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists and is no conversation; choose another name", name)
	}
	all := *c
	raw, err := json.MarshalIndent(saved{all.toSend(0), c.Params}, "", "  ")
	if err != nil {
		return err
	}
	if len(raw) >= fileBytesMax {
		return fmt.Errorf("the conversation has %d bytes; a file may have %d", len(raw), fileBytesMax)
	}
	temp, err := os.CreateTemp(filepath.Dir(name), ".troupe-chat-*") // readable by its owner only
	if err != nil {
		return err
	}
	_, err = temp.Write(append(raw, '\n'))
	if err = errors.Join(err, temp.Sync(), temp.Close()); err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}

// load reads a conversation from a file.
func load(name string) (*Conversation, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	raw, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) (*Conversation, error) {
		return nil, fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
	}
	switch {
	case len(raw) > fileBytesMax:
		return bad("it has more than %d bytes", fileBytesMax)
	case !utf8.Valid(raw):
		return bad("it is not UTF-8")
	}
	var s saved
	if err := json.Unmarshal(raw, &s); err != nil {
		return bad("%v", err)
	}
	if s.Messages == nil {
		return bad("it has no messages")
	}
	s.Stream, s.StreamOptions, s.N, s.Model = false, nil, nil, "" // those are of the session, not of what was said
	if err := check(&s.GenerationParams); err != nil {
		return bad("%v", err)
	}
	c := &Conversation{Params: s.GenerationParams}
	for i, m := range s.Messages {
		switch {
		case m.Role == roleSystem && i == 0:
			c.System = m.Content
		case slices.Contains([]string{roleUser, roleAssistant}, m.Role):
			c.Messages = append(c.Messages, m)
		default:
			return bad("messages[%d].role is %q; expected user or assistant, or system for the first", i, m.Role)
		}
	}
	return c, nil
}
