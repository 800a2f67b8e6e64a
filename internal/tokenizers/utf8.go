package tokenizers

import "unicode/utf8"

const replacement = "\uFFFD"

// appendLossy appends src to dst with every maximal invalid part of a UTF-8 sequence replaced by U+FFFD, as
// Python's bytes.decode("utf-8", "replace") and Rust's String::from_utf8_lossy do. Unless final, an unfinished
// sequence at the end of src is not replaced but returned as rest.
func appendLossy(dst, src []byte, final bool) (out, rest []byte) {
	for len(src) > 0 {
		if src[0] < utf8.RuneSelf {
			n := 1
			for n < len(src) && src[n] < utf8.RuneSelf {
				n++
			}
			dst = append(dst, src[:n]...)
			src = src[n:]
			continue
		}
		if r, width := utf8.DecodeRune(src); r != utf8.RuneError || width > 1 {
			dst = append(dst, src[:width]...)
			src = src[width:]
			continue
		}
		n := invalidPart(src)
		if n == len(src) && !final && !utf8.FullRune(src) {
			return dst, src
		}
		dst = append(dst, replacement...)
		src = src[n:]
	}
	return dst, nil
}

// invalidPart returns the length of the maximal part of a valid sequence that src, which does not begin with
// a whole one, begins with; at least 1.
func invalidPart(src []byte) int {
	low, high, size := byte(0x80), byte(0xBF), 0
	switch b := src[0]; {
	case b >= 0xC2 && b <= 0xDF:
		size = 2
	case b >= 0xE0 && b <= 0xEF:
		size = 3
		switch b {
		case 0xE0:
			low = 0xA0
		case 0xED:
			high = 0x9F
		}
	case b >= 0xF0 && b <= 0xF4:
		size = 4
		switch b {
		case 0xF0:
			low = 0x90
		case 0xF4:
			high = 0x8F
		}
	}
	n := 1
	for n < size && n < len(src) && low <= src[n] && src[n] <= high {
		low, high = 0x80, 0xBF
		n++
	}
	return n
}

// validText returns text with invalid UTF-8 replaced.
func validText(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	out, _ := appendLossy(make([]byte, 0, len(text)+16), []byte(text), true)
	return string(out)
}
