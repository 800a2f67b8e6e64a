package chat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// pipe is a console without a terminal: a line is a message, and only answers go to the output.
type pipe struct {
	ctx      context.Context
	lines    chan pipeLine // closed when there are no more
	ended    error         // why, once it is closed
	out      io.Writer
	err      io.Writer
	clean    func(string) string
	endsLine bool // the answer so far ends in a line break
}

type pipeLine struct {
	text string
	err  error
}

const pipeBufferBytes = 64 << 10

// newPipe reads in until it ends or ctx does.
func newPipe(ctx context.Context, in io.Reader, out, errOut io.Writer, clean func(string) string) *pipe {
	p := &pipe{ctx: ctx, lines: make(chan pipeLine), out: out, err: errOut, clean: clean}
	go p.read(bufio.NewReaderSize(in, pipeBufferBytes))
	return p
}

// read passes lines on. It outlives the session if in never ends: a read cannot be interrupted.
func (p *pipe) read(r *bufio.Reader) {
	defer close(p.lines)
	for {
		text, err := boundedLine(r)
		if err != nil && !errors.Is(err, errLineTooLong) {
			p.ended = err
			return
		}
		select {
		case p.lines <- pipeLine{text, err}:
		case <-p.ctx.Done():
			p.ended = context.Cause(p.ctx)
			return
		}
	}
}

// boundedLine reads a line of at most messageBytesMax bytes and skips the rest of a longer one.
func boundedLine(r *bufio.Reader) (string, error) {
	var b strings.Builder
	size := 0
	for {
		piece, err := r.ReadSlice('\n')
		if size += len(piece); size <= messageBytesMax {
			b.Write(piece)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && size == 0:
			return "", err
		case err != nil && !errors.Is(err, io.EOF):
			return "", err
		case size > messageBytesMax:
			return "", errLineTooLong
		}
		return strings.TrimRight(b.String(), "\r\n"), nil
	}
}

func (p *pipe) readLine(bool) (string, bool, error) {
	select {
	case l, more := <-p.lines:
		if !more {
			return "", false, p.ended
		}
		return l.text, false, l.err
	case <-p.ctx.Done():
		return "", false, context.Cause(p.ctx)
	}
}

func (p *pipe) answer(text string) {
	text = p.clean(text)
	fmt.Fprint(p.out, text)
	p.endsLine = strings.HasSuffix(text, "\n")
}

func (p *pipe) answered() {
	if !p.endsLine {
		fmt.Fprintln(p.out)
	}
	p.endsLine = false
}

func (p *pipe) note(text string)            { fmt.Fprintln(p.err, text) }
func (p *pipe) problem(text string)         { fmt.Fprintln(p.err, "troupe: "+text) }
func (p *pipe) interrupts() <-chan struct{} { return nil }
func (p *pipe) answering(bool)              {}
