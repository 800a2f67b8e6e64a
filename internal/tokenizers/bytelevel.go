package tokenizers

import (
	"strings"
	"unicode/utf8"
)

// The byte-level alphabet of GPT-2 gives every byte a printable character: printable Latin-1 bytes stand for
// themselves, and the 68 others, in order, are U+0100 and following.
// Source: https://github.com/openai/gpt-2/blob/master/src/encoder.py (bytes_to_unicode).
var (
	byteToRune [256]rune
	// runeToByte[r] is the byte of the character r plus one, or 0.
	runeToByte [0x144]uint16
)

func init() {
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !('!' <= r && r <= '~' || 0xA1 <= r && r <= 0xAC || 0xAE <= r && r <= 0xFF) {
			r = next
			next++
		}
		byteToRune[b] = r
		runeToByte[r] = uint16(b) + 1
	}
}

// toByteLevel spells the bytes of text in the byte-level alphabet.
func toByteLevel(text string) string {
	var b strings.Builder
	b.Grow(2 * len(text))
	for i := range len(text) {
		b.WriteRune(byteToRune[text[i]])
	}
	return b.String()
}

// fromByteLevel returns the bytes that a token spells; ok is false if it has a character outside the
// byte-level alphabet.
func fromByteLevel(token string) (bytes string, ok bool) {
	plain := true
	for i := range len(token) {
		if token[i] <= ' ' || token[i] >= 0x7F {
			plain = false
			break
		}
	}
	if plain {
		return token, true
	}
	out := make([]byte, 0, len(token))
	for _, r := range token {
		if int(r) >= len(runeToByte) || runeToByte[r] == 0 {
			return "", false
		}
		out = append(out, byte(runeToByte[r]-1))
	}
	return string(out), true
}

// byteToken returns the byte that a byte-fallback token such as <0x0A> stands for.
func byteToken(token string) (b byte, ok bool) {
	if len(token) != 6 || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	high, low := hexDigit(token[3]), hexDigit(token[4])
	if token[3] == '+' { // the reference's number parser takes a sign
		high = 0
	}
	if high < 0 || low < 0 {
		return 0, false
	}
	return byte(high<<4 | low), true
}

func hexDigit(b byte) int {
	switch {
	case '0' <= b && b <= '9':
		return int(b - '0')
	case 'a' <= b && b <= 'f':
		return int(b-'a') + 10
	case 'A' <= b && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}

// byteTokenName is the spelling of the byte-fallback token of b.
func byteTokenName(b byte) string {
	const digits = "0123456789ABCDEF"
	return "<0x" + string(digits[b>>4]) + string(digits[b&15]) + ">"
}

// lastRune and firstRune return a boundary character of a non-empty string.
func lastRune(s string) rune  { r, _ := utf8.DecodeLastRuneInString(s); return r }
func firstRune(s string) rune { r, _ := utf8.DecodeRuneInString(s); return r }
