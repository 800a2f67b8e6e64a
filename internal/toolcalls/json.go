package toolcalls

// scanner checks JSON (RFC 8259) byte by byte.
type scanner struct {
	stack   []byte // '{' or '[' of what is open
	state   scanState
	literal string // the rest of true, false or null
	hex     int    // digits that \u still wants
}

type scanState uint8

const (
	wantValue scanState = iota
	wantValueOrEnd
	wantKey
	wantKeyOrEnd
	wantColon
	wantCommaOrEnd
	inKey
	inString
	inKeyEscape
	inStringEscape
	inLiteral
	inNumberSign
	inNumberZero
	inNumber
	inNumberDot
	inNumberFraction
	inNumberE
	inNumberESign
	inNumberExponent
	finished
	broken
)

// depthMax bounds nesting, as in a client's request.
const depthMax = 64

// step takes a byte. It reports false, now and from then on, if no JSON goes on like this.
func (s *scanner) step(c byte) bool {
	s.state = s.next(c)
	return s.state != broken
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

func (s *scanner) next(c byte) scanState {
	switch s.state {
	case inKey, inString:
		return s.stringByte(c)
	case inKeyEscape, inStringEscape:
		return s.escapeByte(c)
	case inLiteral:
		if s.literal[0] != c {
			return broken
		}
		if s.literal = s.literal[1:]; s.literal == "" {
			return s.afterValue()
		}
		return inLiteral
	}
	if s.state >= inNumberSign && s.state <= inNumberExponent {
		return s.numberByte(c)
	}
	if isSpace(c) && s.state != broken {
		return s.state
	}
	return s.structure(c)
}

// structure takes a byte between values.
func (s *scanner) structure(c byte) scanState {
	switch s.state {
	case wantValue, wantValueOrEnd:
		if c == ']' && s.state == wantValueOrEnd {
			return s.pop('[')
		}
		return s.beginValue(c)
	case wantKey, wantKeyOrEnd:
		switch {
		case c == '"':
			return inKey
		case c == '}' && s.state == wantKeyOrEnd:
			return s.pop('{')
		}
	case wantColon:
		if c == ':' {
			return wantValue
		}
	case wantCommaOrEnd:
		switch top := s.stack[len(s.stack)-1]; {
		case c == ',' && top == '{':
			return wantKey
		case c == ',':
			return wantValue
		case c == '}' || c == ']':
			return s.pop(c - 2) // '{' and '[' are two below
		}
	}
	return broken
}

func (s *scanner) beginValue(c byte) scanState {
	switch c {
	case '{', '[':
		if len(s.stack) == depthMax {
			return broken
		}
		s.stack = append(s.stack, c)
		if c == '{' {
			return wantKeyOrEnd
		}
		return wantValueOrEnd
	case '"':
		return inString
	case 't':
		s.literal = "rue"
		return inLiteral
	case 'f':
		s.literal = "alse" //nolint:misspell // the rest of false
		return inLiteral
	case 'n':
		s.literal = "ull"
		return inLiteral
	case '-':
		return inNumberSign
	case '0':
		return inNumberZero
	}
	if c >= '1' && c <= '9' {
		return inNumber
	}
	return broken
}

func (s *scanner) pop(open byte) scanState {
	if s.stack[len(s.stack)-1] != open {
		return broken
	}
	s.stack = s.stack[:len(s.stack)-1]
	return s.afterValue()
}

func (s *scanner) afterValue() scanState {
	if len(s.stack) == 0 {
		return finished
	}
	return wantCommaOrEnd
}

func (s *scanner) stringByte(c byte) scanState {
	switch {
	case c < 0x20:
		return broken
	case c == '\\':
		return s.state + (inKeyEscape - inKey)
	case c == '"' && s.state == inKey:
		return wantColon
	case c == '"':
		return s.afterValue()
	}
	return s.state
}

func (s *scanner) escapeByte(c byte) scanState {
	back := s.state - (inKeyEscape - inKey)
	if s.hex > 0 {
		if s.hex--; c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' {
			if s.hex == 0 {
				return back
			}
			return s.state
		}
		return broken
	}
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return back
	case 'u':
		s.hex = 4
		return s.state
	}
	return broken
}

func (s *scanner) numberByte(c byte) scanState {
	digit := c >= '0' && c <= '9'
	switch s.state {
	case inNumberSign:
		if c == '0' {
			return inNumberZero
		}
		return ifThen(digit, inNumber)
	case inNumberDot:
		return ifThen(digit, inNumberFraction)
	case inNumberE:
		if c == '+' || c == '-' {
			return inNumberESign
		}
		return ifThen(digit, inNumberExponent)
	case inNumberESign:
		return ifThen(digit, inNumberExponent)
	}
	switch {
	case digit && s.state != inNumberZero:
		return s.state
	case c == '.' && (s.state == inNumberZero || s.state == inNumber):
		return inNumberDot
	case c|0x20 == 'e' && s.state != inNumberExponent:
		return inNumberE
	}
	if s.state = s.afterValue(); s.state == finished { // only inside of something can a number be seen to end
		return broken
	}
	return s.next(c)
}

func ifThen(ok bool, then scanState) scanState {
	if ok {
		return then
	}
	return broken
}
