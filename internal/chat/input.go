package chat

import (
	"errors"
	"io"
	"strings"
)

// console is where a session happens: a terminal or a pair of streams.
type console interface {
	// readLine returns what was typed, without the line's end. more asks for the next line of a message.
	// pasted says that the line is part of a paste, which goes on until a line that was not pasted.
	// Errors: io.EOF, errInterrupted, errCleared, errLineTooLong.
	readLine(more bool) (text string, pasted bool, err error)
	// answer writes a piece of an answer; answered ends it, on a line's end.
	answer(text string)
	answered()
	// note writes a line about the conversation, problem one about what went wrong.
	note(text string)
	problem(text string)
	// interrupts delivers what readLine cannot: that the user wants an answer to stop. answering says when one
	// is on its way.
	interrupts() <-chan struct{}
	answering(on bool)
}

var (
	errInterrupted = errors.New("chat: interrupted")
	errCleared     = errors.New("chat: the line was given up")
	errLineTooLong = errors.New("chat: the line is too long")
	errMessageSize = errors.New("chat: the message is too long")
)

const (
	messageBytesMax = 1 << 20
	fence           = `"""`
)

// readMessage reads a message or a command. A message has several lines if it is pasted, if a line ends in a
// backslash, or from """ to """.
func readMessage(c console) (string, error) {
	first, pasted, err := c.readLine(false)
	if err != nil {
		return "", err
	}
	if rest, fenced := strings.CutPrefix(strings.TrimLeft(first, " \t"), fence); fenced {
		return readFenced(c, rest)
	}
	var b strings.Builder
	line := first
	for {
		continued := !pasted && strings.HasSuffix(line, `\`)
		if continued {
			line = strings.TrimSuffix(line, `\`)
		}
		b.WriteString(line)
		if b.Len() > messageBytesMax {
			return "", errMessageSize
		}
		if !continued && !pasted {
			return strings.TrimRight(b.String(), "\n"), nil
		}
		b.WriteByte('\n')
		line, pasted, err = c.readLine(true)
		if errors.Is(err, io.EOF) { // what there is, is the message
			return strings.TrimRight(b.String(), "\n"), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// readFenced reads up to a line that ends in """. The rest of the first line belongs to the message.
func readFenced(c console, line string) (string, error) {
	var b strings.Builder
	size := 0
	for {
		before, closed := strings.CutSuffix(strings.TrimRight(line, " \t"), fence)
		if closed {
			line = before
		}
		if size += len(line) + 1; size <= messageBytesMax {
			b.WriteString(line)
			b.WriteByte('\n')
		}
		if closed {
			break
		}
		var err error
		line, _, err = c.readLine(true)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
	}
	if size > messageBytesMax {
		return "", errMessageSize
	}
	message := strings.Trim(b.String(), "\n")
	if strings.HasPrefix(message, "/") { // what is quoted is no command
		message = "/" + message
	}
	return message, nil
}
