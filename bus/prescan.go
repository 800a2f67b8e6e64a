package bus

import (
	"encoding/binary"
	"fmt"
)

// Limits of a payload, msgpack or JSON. An element of one byte can become a structure of two hundred, so
// their number is bounded too; columns count as one, whatever their length.
const (
	PayloadDepthMax  = 32
	PayloadValuesMax = 256 << 10
)

// Prescan checks that payload is exactly one msgpack value whose every length is backed by bytes that
// are there, and that keeps the limits. The decoder trusts lengths: five hostile bytes would make it
// allocate gigabytes. Prescan allocates nothing.
func Prescan(payload []byte) error {
	// pending[d] counts the values still to come at depth d.
	var pending [PayloadDepthMax + 1]uint64
	pending[0] = 1
	depth, at := 0, 0
	for values := 0; ; values++ {
		for depth > 0 && pending[depth] == 0 {
			depth--
		}
		if depth == 0 && pending[0] == 0 {
			break
		}
		if at >= len(payload) {
			return fmt.Errorf("msgpack: truncated at byte %d", at)
		}
		if values == PayloadValuesMax {
			return fmt.Errorf("msgpack: more than %d values; send columns as bin fields", PayloadValuesMax)
		}
		pending[depth]--
		size, children, err := valueAt(payload, at)
		if err != nil {
			return err
		}
		if size > uint64(len(payload)-at) {
			return fmt.Errorf("msgpack: the value at byte %d claims %d bytes, %d are left", at, size, len(payload)-at)
		}
		at += int(size)
		if children > 0 {
			// Each child takes at least one byte.
			if children > uint64(len(payload)-at) {
				return fmt.Errorf("msgpack: the container ending its header at byte %d claims %d elements, %d bytes are left", at, children, len(payload)-at)
			}
			if depth == PayloadDepthMax {
				return fmt.Errorf("msgpack: nested deeper than %d at byte %d", PayloadDepthMax, at)
			}
			depth++
			pending[depth] = children
		}
	}
	if at != len(payload) {
		return fmt.Errorf("msgpack: %d bytes after the message", len(payload)-at)
	}
	return nil
}

// valueAt returns the bytes that the value at payload[at] takes without its children, and how many
// children follow. Format: https://github.com/msgpack/msgpack/blob/master/spec.md
func valueAt(payload []byte, at int) (size, children uint64, err error) {
	c := payload[at]
	length := func(bytes int) (uint64, error) {
		if len(payload)-at-1 < bytes {
			return 0, fmt.Errorf("msgpack: truncated in the length at byte %d", at+1)
		}
		switch b := payload[at+1:]; bytes {
		case 1:
			return uint64(b[0]), nil
		case 2:
			return uint64(binary.BigEndian.Uint16(b)), nil
		default:
			return uint64(binary.BigEndian.Uint32(b)), nil
		}
	}
	switch {
	case c <= 0x7f || c >= 0xe0: // fixint
		return 1, 0, nil
	case c <= 0x8f: // fixmap
		return 1, 2 * uint64(c&0x0f), nil
	case c <= 0x9f: // fixarray
		return 1, uint64(c & 0x0f), nil
	case c <= 0xbf: // fixstr
		return 1 + uint64(c&0x1f), 0, nil
	}
	switch c {
	case 0xc0, 0xc2, 0xc3: // nil, false, true
		return 1, 0, nil
	case 0xc4, 0xc5, 0xc6: // bin
		n, err := length(1 << (c - 0xc4))
		return 1 + 1<<(c-0xc4) + n, 0, err
	case 0xc7, 0xc8, 0xc9: // ext: a type byte follows the length
		n, err := length(1 << (c - 0xc7))
		return 2 + 1<<(c-0xc7) + n, 0, err
	case 0xca, 0xce, 0xd2: // 32 bits
		return 5, 0, nil
	case 0xcb, 0xcf, 0xd3: // 64 bits
		return 9, 0, nil
	case 0xcc, 0xd0: // 8 bits
		return 2, 0, nil
	case 0xcd, 0xd1: // 16 bits
		return 3, 0, nil
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // fixext
		return 2 + 1<<(c-0xd4), 0, nil
	case 0xd9, 0xda, 0xdb: // str
		n, err := length(1 << (c - 0xd9))
		return 1 + 1<<(c-0xd9) + n, 0, err
	case 0xdc, 0xdd: // array
		n, err := length(2 << (c - 0xdc))
		return 1 + 2<<(c-0xdc), n, err
	case 0xde, 0xdf: // map
		n, err := length(2 << (c - 0xde))
		return 1 + 2<<(c-0xde), 2 * n, err
	}
	return 0, 0, fmt.Errorf("msgpack: byte %d is 0xc1, which is never used", at)
}

// prescanJSON checks that payload keeps the limits. Its form is left to the decoder. It allocates nothing.
func prescanJSON(payload []byte) error {
	depth, values, inString := 0, 1, false
	for i := 0; i < len(payload); i++ {
		switch c := payload[i]; {
		case inString:
			if c == '\\' {
				i++
			}
			inString = c != '"'
		case c == '"':
			inString = true
		case c == '[' || c == '{':
			depth++
			values++
		case c == ']' || c == '}':
			depth--
		case c == ',':
			values++
		}
		if depth > PayloadDepthMax {
			return fmt.Errorf("JSON: nested deeper than %d at byte %d", PayloadDepthMax, i)
		}
		if values > PayloadValuesMax {
			return fmt.Errorf("JSON: more than %d values at byte %d", PayloadValuesMax, i)
		}
	}
	return nil
}
