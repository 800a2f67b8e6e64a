package jinja

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrorKind says who has to act on an [Error].
type ErrorKind uint8

const (
	// SyntaxError means that the template cannot be parsed.
	SyntaxError ErrorKind = iota + 1
	// RuntimeError means that the template does not fit the data: an undefined
	// value was used, types do not match, a filter does not exist.
	RuntimeError
	// RaisedError means that the template itself refused the request with
	// raise_exception; Message is the template's, meant for the requester.
	RaisedError
	// LimitError means that the render exceeded one of its [Limits].
	LimitError
	// ContextError means that the caller passed a Go value outside the documented types.
	ContextError
)

// snippetRunesMax bounds the quoted part of a source line.
const snippetRunesMax = 80

// Error is what [Parse] and [Template.Render] return. Line and Column count from
// 1, columns in code points; both are 0 where no place in the source is to blame.
type Error struct {
	Kind    ErrorKind
	Message string
	Line    int
	Column  int
	Snippet string // the source line around Column, trimmed
}

// Error gives the message with its place and the source there, in one line.
func (e *Error) Error() string {
	if e.Line == 0 {
		return "jinja: " + e.Message
	}
	return fmt.Sprintf("jinja: line %d, column %d: %s (in %q)", e.Line, e.Column, e.Message, e.Snippet)
}

func errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// locate turns err into an *Error and gives it the place at byte offset at of
// src, unless an inner expression already did.
func locate(src string, err error, at pos) error {
	var located *Error
	if !errors.As(err, &located) {
		located = &Error{Kind: RuntimeError, Message: err.Error()}
	}
	if located.Line != 0 {
		return located
	}
	offset := min(max(int(at), 0), len(src))
	begin := strings.LastIndexByte(src[:offset], '\n') + 1
	end := len(src)
	if i := strings.IndexByte(src[offset:], '\n'); i >= 0 {
		end = offset + i
	}
	located.Line = strings.Count(src[:begin], "\n") + 1
	located.Column = utf8.RuneCountInString(src[begin:offset]) + 1
	line := []rune(src[begin:end])
	if len(line) > snippetRunesMax {
		from := min(max(located.Column-1-snippetRunesMax/2, 0), len(line)-snippetRunesMax)
		line = line[from : from+snippetRunesMax]
	}
	located.Snippet = strings.TrimSpace(string(line))
	return located
}
