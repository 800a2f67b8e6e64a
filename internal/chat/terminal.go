package chat

import (
	"context"
	"errors"
	"io"
	"strings"

	"golang.org/x/term"
)

const (
	prompt     = ">>> "
	morePrompt = "... "
)

// terminal is a console with line editing and history. Its device is in raw mode.
type terminal struct {
	*term.Terminal
	keys  *keys
	size  func() (width, height int, err error)
	clean func(string) string
	dim   func(string) string
	begun bool // an answer has begun and does not end in a line break
}

// screen joins the two directions of a terminal.
type screen struct {
	io.Reader
	io.Writer
}

// newTerminal edits lines on a terminal that is in raw mode; size tells how large it is.
func newTerminal(ctx context.Context, in io.Reader, out io.Writer, size func() (int, int, error), clean, dim func(string) string) *terminal {
	k := newKeys(in)
	context.AfterFunc(ctx, func() { k.end(context.Cause(ctx)) })
	return &terminal{Terminal: term.NewTerminal(screen{k, out}, prompt), keys: k, size: size, clean: clean, dim: dim}
}

func (t *terminal) readLine(more bool) (string, bool, error) {
	if width, height, err := t.size(); err == nil && width > 0 {
		_ = t.SetSize(width, height) // it redraws nothing that could fail
	}
	t.SetPrompt(prompt)
	if more {
		t.SetPrompt(morePrompt)
	}
	if err := t.keys.edit(); err != nil {
		return "", false, err
	}
	t.SetBracketedPasteMode(true)
	line, err := t.ReadLine()
	t.SetBracketedPasteMode(false)
	if interrupted := t.keys.edited(); interrupted != nil {
		return "", false, interrupted
	}
	if errors.Is(err, term.ErrPasteIndicator) {
		return line, true, nil
	}
	return line, false, err
}

// write shows text without what could move the cursor or worse.
func (t *terminal) write(text string, style func(string) string) {
	_, _ = t.Write([]byte(style(t.clean(text)))) // a terminal that is gone ends the next read
}

func plain(text string) string { return text }

func (t *terminal) answer(text string) {
	t.write(text, plain)
	t.begun = !strings.HasSuffix(text, "\n")
}

func (t *terminal) answered() {
	if t.begun {
		t.write("\n", plain)
		t.begun = false
	}
}

func (t *terminal) note(text string) {
	t.write(text, t.dim)
	t.write("\n", plain)
}

func (t *terminal) problem(text string)         { t.write(text+"\n", plain) }
func (t *terminal) interrupts() <-chan struct{} { return t.keys.interrupt }
func (t *terminal) answering(on bool)           { t.keys.answer(on) }
