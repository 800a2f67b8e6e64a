package tokenizers

import (
	"fmt"
	"strconv"
	"strings"
)

// maxJSONDepth bounds the nesting of a tokenizer.json; real files reach 8.
const maxJSONDepth = 64

// checker walks over JSON text.
type checker struct {
	text string
	pos  int
}

func (c *checker) space() {
	for c.pos < len(c.text) {
		switch c.text[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

// skip moves over a value that is known to be well-formed.
func (c *checker) skip() {
	depth := 0
	for {
		switch b := c.text[c.pos]; b {
		case '"':
			for c.pos++; c.text[c.pos] != '"'; c.pos++ {
				if c.text[c.pos] == '\\' {
					c.pos++
				}
			}
			c.pos++
		case '{', '[':
			depth++
			c.pos++
		case '}', ']':
			depth--
			c.pos++
		case ' ', '\t', '\n', '\r', ',', ':':
			c.pos++
			continue
		default:
			for c.pos < len(c.text) && strings.IndexByte(" \t\r\n,]}", c.text[c.pos]) < 0 {
				c.pos++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// value moves over a value and checks it.
func (c *checker) value(depth int) error {
	if depth > maxJSONDepth {
		return fmt.Errorf("nested deeper than %d", maxJSONDepth)
	}
	if c.pos >= len(c.text) {
		return fmt.Errorf("text ends early")
	}
	switch b := c.text[c.pos]; {
	case b == '"':
		return c.str()
	case b == '{':
		return c.sequence('}', func() error {
			if c.pos >= len(c.text) || c.text[c.pos] != '"' {
				return fmt.Errorf("want a key in double quotes")
			}
			if err := c.str(); err != nil {
				return err
			}
			c.space()
			if c.pos >= len(c.text) || c.text[c.pos] != ':' {
				return fmt.Errorf("want a colon")
			}
			c.pos++
			c.space()
			return c.value(depth + 1)
		})
	case b == '[':
		return c.sequence(']', func() error { return c.value(depth + 1) })
	case b == '-' || '0' <= b && b <= '9':
		return c.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if strings.HasPrefix(c.text[c.pos:], word) {
			c.pos += len(word)
			return nil
		}
	}
	return fmt.Errorf("want a value")
}

// sequence moves over the members of an object or array up to its closing byte.
func (c *checker) sequence(closing byte, member func() error) error {
	c.pos++
	c.space()
	if c.pos < len(c.text) && c.text[c.pos] == closing {
		c.pos++
		return nil
	}
	for {
		if err := member(); err != nil {
			return err
		}
		c.space()
		if c.pos >= len(c.text) {
			return fmt.Errorf("text ends early")
		}
		b := c.text[c.pos]
		if b != closing && b != ',' {
			return fmt.Errorf("want a comma or %q", closing)
		}
		c.pos++
		if b == closing {
			return nil
		}
		c.space()
	}
}

func (c *checker) str() error {
	for c.pos++; c.pos < len(c.text); c.pos++ {
		switch b := c.text[c.pos]; {
		case b == '"':
			c.pos++
			return nil
		case b < 0x20:
			return fmt.Errorf("control character in a string")
		case b == '\\':
			c.pos++
			if c.pos >= len(c.text) || strings.IndexByte(`"\/bfnrtu`, c.text[c.pos]) < 0 {
				return fmt.Errorf("bad escape in a string")
			}
			if c.text[c.pos] != 'u' {
				continue
			}
			for range 4 {
				c.pos++
				if c.pos >= len(c.text) || strings.IndexByte("0123456789abcdefABCDEF", c.text[c.pos]) < 0 {
					return fmt.Errorf("bad escape in a string")
				}
			}
		}
	}
	return fmt.Errorf("unclosed string")
}

func (c *checker) number() error {
	start := c.pos
	for c.pos < len(c.text) && strings.IndexByte("0123456789+-.eE", c.text[c.pos]) >= 0 {
		c.pos++
	}
	text := c.text[start:c.pos]
	digits := strings.TrimPrefix(text, "-")
	if _, err := strconv.ParseFloat(text, 64); err != nil || len(digits) > 1 && digits[0] == '0' && '0' <= digits[1] && digits[1] <= '9' ||
		digits[0] == '.' || strings.HasSuffix(text, ".") || strings.Contains(text, ".e") || strings.Contains(text, ".E") {
		return fmt.Errorf("malformed number %.30s", text)
	}
	return nil
}
