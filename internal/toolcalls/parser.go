package toolcalls

import "strings"

// Event is what a piece of text adds to an answer: text, or a piece of a call.
type Event struct {
	Text string // if it is not "", the rest is empty

	Call      int    // counts the answer's calls from 0
	Name      string // with a call's first event only
	Arguments string // the next piece of JSON
}

// Parser reads an answer as it comes.
type Parser struct {
	format Format
	known  func(name string) bool
	strict bool // announce no call before it is complete

	state  parserState
	marker string // that is being looked for, or read
	read   int    // bytes of it that match
	space  []byte // white space before it, which is text only if no call follows
	raw    []byte // of a call that is not announced

	object    *object
	bare      *scanner // of arguments that follow a name, …
	args      []byte   // … those that are not told yet, …
	name      string   // … and the name
	announced bool
	sent      int // bytes of the announced call's arguments
	calls     int
	list      bool // in an array of calls …
	comma     bool // … behind a comma

	events []Event
	plain  []byte // text behind the events
}

type parserState uint8

const (
	inText     parserState = iota // looking for the marker
	inAnswer                      // nothing can be a call any more
	atStart                       // of an answer that may consist of calls, or between them
	beforeCall                    // behind a marker
	inObject                      // in {"name": …}
	afterCall                     // before what ends it
	inList                        // between the calls of an array
	inName                        // before the arguments
	inBare                        // in arguments without name
)

const (
	spaceMax = 256 // bytes of white space that are held back
	nameMax  = 256 // bytes of what stands before arguments
)

const (
	hermesOpen, hermesClose = "<tool_call>", "</tool_call>"
	llamaOpen               = "<|python_tag|>"
	mistralOpen             = "[TOOL_CALLS]"
	mistralArgs             = "[ARGS]"
	mistralID               = "[CALL_ID]"
)

// NewParser reads an answer in a format. Only the names of tools that are known are those of calls.
func NewParser(f Format, known func(name string) bool) *Parser {
	p := &Parser{format: f, known: known}
	switch f {
	case Hermes:
		p.marker = hermesOpen
	case Llama3:
		p.marker, p.state = llamaOpen, atStart
	default:
		p.marker = mistralOpen
	}
	return p
}

// Calls counts those that were announced.
func (p *Parser) Calls() int { return p.calls }

// Push takes the next piece of text. The events are valid until the next call.
func (p *Parser) Push(text string) []Event {
	p.events = p.events[:0]
	for i := 0; i < len(text); i++ {
		if p.state == inAnswer {
			p.plain = append(p.plain, text[i:]...)
			break
		}
		p.step(text[i])
	}
	p.tellArguments()
	p.tellText()
	return p.events
}

// Close ends the text. What was held back comes now, and a call that was not announced as text.
func (p *Parser) Close() []Event {
	p.events = p.events[:0]
	switch p.state {
	case beforeCall, inObject, inName, inBare:
		p.giveUp()
	case afterCall:
		p.read = 0 // the beginning of what would have ended the call
	}
	if p.read > 0 || p.calls == 0 { // white space behind calls says nothing
		p.release()
	}
	p.state = inAnswer
	p.tellText()
	return p.events
}

func (p *Parser) step(c byte) {
	switch p.state {
	case inText:
		p.look(c)
	case atStart:
		p.start(c)
	case beforeCall:
		p.before(c)
	case inList:
		p.between(c)
	case inObject:
		p.objectByte(c)
	case inName:
		p.nameByte(c)
	case inBare:
		p.bareByte(c)
	case afterCall:
		p.after(c)
	case inAnswer:
		p.plain = append(p.plain, c)
	}
}

// release makes text of what was held back for a marker.
func (p *Parser) release() {
	p.plain = append(append(p.plain, p.space...), p.marker[:p.read]...)
	p.space, p.read = p.space[:0], 0
}

// tellText makes an event of the text since the last one.
func (p *Parser) tellText() {
	if len(p.plain) > 0 {
		p.events = append(p.events, Event{Text: string(p.plain)})
		p.plain = p.plain[:0]
	}
}

// look searches text for the marker, in which only the first byte is like the first.
func (p *Parser) look(c byte) {
	switch {
	case c == p.marker[p.read]:
		if p.read++; p.read == len(p.marker) {
			p.open()
		}
	case p.read > 0:
		p.release()
		p.look(c)
	case isSpace(c) && len(p.space) < spaceMax:
		p.space = append(p.space, c)
	default:
		p.release()
		p.plain = append(p.plain, c)
	}
}

// open begins what follows a marker.
func (p *Parser) open() {
	p.raw = append(append(p.raw[:0], p.space...), p.marker...)
	p.space, p.read, p.state = p.space[:0], 0, beforeCall
}

// start reads an answer of Llama's, which is calls from its beginning on, or is none.
func (p *Parser) start(c byte) {
	switch {
	case c == p.marker[p.read]:
		if p.read++; p.read == len(p.marker) {
			p.open()
		}
	case c == '{' && p.read == 0:
		p.raw = append(p.raw[:0], p.space...)
		p.space = p.space[:0]
		p.beginObject(c)
	case p.read == 0 && (isSpace(c) || p.calls > 0 && (c == ';' || c == ',')) && len(p.space) < spaceMax:
		p.space = append(p.space, c)
	default:
		p.release()
		p.plain, p.state = append(p.plain, c), inAnswer
	}
}

// before reads what is between a marker and the first call.
func (p *Parser) before(c byte) {
	mistral := p.format == Mistral || p.format == MistralArgs
	if c == '{' {
		p.beginObject(c)
		return
	}
	p.raw = append(p.raw, c)
	switch {
	case isSpace(c) && len(p.raw) < spaceMax:
	case c == '[' && mistral && !p.list:
		p.list = true
	case mistral && !p.list && c != ']' && !isSpace(c):
		p.name, p.state = string([]byte{c}), inName
	default:
		p.giveUp()
	}
}

// between reads what is between the calls of an array, or behind them.
func (p *Parser) between(c byte) {
	switch {
	case c == '{' && p.comma:
		p.comma = false
		p.beginObject(c)
		return
	case c == ']' && !p.comma:
		p.list, p.state, p.raw = false, inText, p.raw[:0]
		return
	}
	p.raw = append(p.raw, c)
	switch {
	case isSpace(c) && len(p.raw) < spaceMax:
	case c == ',' && !p.comma:
		p.comma = true
	default:
		p.giveUp()
	}
}

func (p *Parser) beginObject(c byte) {
	p.object, p.announced, p.state = &object{}, false, inObject
	p.objectByte(c)
}

func (p *Parser) objectByte(c byte) {
	p.raw = append(p.raw, c)
	out := p.object.step(c)
	if out != malformed && !p.announced && p.object.named {
		if !p.known(p.object.name) {
			out = malformed
		} else if out == complete || !p.strict && p.object.argued {
			p.announce(p.object.name)
		}
	}
	switch {
	case out == malformed:
		p.giveUp()
	case out == complete:
		p.endCall()
	case p.announced:
		p.raw = p.raw[:0]
	}
}

// nameByte reads "name{", "name[ARGS]{" or "name[CALL_ID]id[ARGS]{".
func (p *Parser) nameByte(c byte) {
	if c != '{' {
		p.raw = append(p.raw, c)
		if p.name += string([]byte{c}); len(p.name) > nameMax {
			p.giveUp()
		}
		return
	}
	name, ok := callName(p.name)
	if !ok || !p.known(name) {
		p.raw = append(p.raw, c)
		p.giveUp()
		return
	}
	p.name, p.bare, p.args, p.announced, p.state = name, &scanner{}, p.args[:0], false, inBare
	if !p.strict {
		p.announce(name)
	}
	p.bareByte(c)
}

// callName reads what stands before arguments.
func callName(head string) (string, bool) {
	name, id, hasID := strings.Cut(head, mistralID)
	behind := name
	if hasID {
		behind = id
	}
	first, rest, hasArgs := strings.Cut(behind, mistralArgs)
	if !hasID {
		name = first
	}
	return strings.TrimSpace(name), (hasArgs || !hasID) && strings.TrimSpace(rest) == ""
}

func (p *Parser) bareByte(c byte) {
	p.raw = append(p.raw, c)
	if !p.bare.step(c) {
		p.giveUp()
		return
	}
	p.args = append(p.args, c)
	if p.announced {
		p.raw = p.raw[:0]
	}
	if p.bare.state == finished {
		if !p.announced {
			p.announce(p.name)
		}
		p.endCall()
	}
}

// announce tells of a call.
func (p *Parser) announce(name string) {
	p.announced, p.raw, p.sent = true, p.raw[:0], 0
	p.tellText()
	p.events = append(p.events, Event{Call: p.calls, Name: name})
	p.calls++
}

// tellArguments makes an event of the announced call's arguments since the last time, or adds them to its last one.
func (p *Parser) tellArguments() {
	if !p.announced {
		return
	}
	piece := string(p.args)
	if p.args = p.args[:0]; p.object != nil {
		piece = p.object.take()
	}
	if piece == "" {
		return
	}
	p.sent += len(piece)
	if n := len(p.events); n > 0 && p.events[n-1].Text == "" && p.events[n-1].Call == p.calls-1 {
		p.events[n-1].Arguments += piece
		return
	}
	p.events = append(p.events, Event{Call: p.calls - 1, Arguments: piece})
}

func (p *Parser) endCall() {
	p.tellArguments()
	if p.sent == 0 {
		p.args, p.object = append(p.args, "{}"...), nil
		p.tellArguments()
	}
	p.object, p.bare, p.announced, p.raw = nil, nil, false, p.raw[:0]
	switch {
	case p.list:
		p.state = inList
	case p.format == Hermes:
		p.state, p.marker = afterCall, hermesClose
	case p.format == Llama3:
		p.state = atStart
	default:
		p.state = inText
	}
}

// after looks for what ends a call of Hermes'. Without it the call counts all the same.
func (p *Parser) after(c byte) {
	switch {
	case c == p.marker[p.read]:
		if p.read++; p.read == len(p.marker) {
			p.marker, p.read, p.state, p.space = hermesOpen, 0, inText, p.space[:0]
		}
	case p.read == 0 && isSpace(c) && len(p.space) < spaceMax:
		p.space = append(p.space, c)
	default:
		again := p.marker[:p.read]
		p.marker, p.read, p.state = hermesOpen, 0, inText
		for i := range len(again) {
			p.look(again[i])
		}
		p.look(c)
	}
}

// giveUp makes text of what was not announced as a call. An announced one stays as far as it got, and what follows
// is text.
func (p *Parser) giveUp() {
	p.tellArguments()
	p.plain = append(p.plain, p.raw...)
	p.raw, p.args, p.object, p.bare = p.raw[:0], p.args[:0], nil, nil
	p.announced, p.list, p.comma = false, false, false
	if p.state = inText; p.format == Llama3 {
		p.state = inAnswer
	}
}

// Parse reads a whole answer: its text, and its calls if they are complete.
func Parse(f Format, answer string, known func(name string) bool) (text string, calls []Event) {
	p := NewParser(f, known)
	p.strict = true
	var b strings.Builder
	take := func(events []Event) {
		for _, e := range events {
			switch {
			case e.Text != "":
				b.WriteString(e.Text)
			case e.Call == len(calls):
				calls = append(calls, e)
			default:
				calls[e.Call].Arguments += e.Arguments
			}
		}
	}
	take(p.Push(answer))
	take(p.Close())
	return b.String(), calls
}
