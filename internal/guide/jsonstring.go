package guide

// The inside of a JSON string is the one language that every JSON constraint shares, so it has an automaton of its
// own: it reads characters and escapes up to the closing quote, as well-formed UTF-8 and without lone surrogates
// (RFC 8259 section 7, RFC 3629). Because it does not depend on the constraint, the tokens that fit each of its
// states are computed once per vocabulary (stringtokens.go).

// States of the automaton. Only strBoundary is between characters.
const (
	strBoundary = iota
	strEscape   // after \
	strHex1     // after \u
	strHex2     // after \uX, three digits to come
	strHex3
	strHex4
	strSurrogate // after \uD
	strHigh3     // after \uD[8-B]
	strHigh4
	strLow   // after a high surrogate: \ must follow
	strLowU  // u must follow
	strLowD  // D must follow
	strLow2  // C to F must follow
	strCont1 // one continuation byte to come
	strCont2 // two
	strCont3 // three
	strE0    // after E0, ED, F0, F4: the next byte is restricted
	strED
	strF0
	strF4
	strStates
)

// stringDFA[q][b] is the next state, byteReject, or byteAccept for the closing quote.
var stringDFA = buildStringDFA()

func buildStringDFA() (d [strStates][256]int8) {
	for q := range d {
		for b := range d[q] {
			d[q][b] = byteReject
		}
	}
	set := func(q int, lo, hi byte, to int8) {
		for b := int(lo); b <= int(hi); b++ {
			d[q][b] = to
		}
	}
	hex := func(q int, to int8) {
		set(q, '0', '9', to)
		set(q, 'a', 'f', to)
		set(q, 'A', 'F', to)
	}
	set(strBoundary, 0x20, 0x7F, strBoundary)
	set(strBoundary, '"', '"', byteAccept)
	set(strBoundary, '\\', '\\', strEscape)
	set(strBoundary, 0xC2, 0xDF, strCont1)
	set(strBoundary, 0xE1, 0xEF, strCont2)
	set(strBoundary, 0xE0, 0xE0, strE0)
	set(strBoundary, 0xED, 0xED, strED)
	set(strBoundary, 0xF0, 0xF0, strF0)
	set(strBoundary, 0xF1, 0xF3, strCont3)
	set(strBoundary, 0xF4, 0xF4, strF4)
	for _, b := range []byte(`"\/bfnrt`) {
		set(strEscape, b, b, strBoundary)
	}
	set(strEscape, 'u', 'u', strHex1)
	hex(strHex1, strHex2)
	set(strHex1, 'd', 'd', strSurrogate)
	set(strHex1, 'D', 'D', strSurrogate)
	hex(strHex2, strHex3)
	hex(strHex3, strHex4)
	hex(strHex4, strBoundary)
	set(strSurrogate, '0', '7', strHex3) // U+D000 to U+D7FF are characters
	set(strSurrogate, '8', '9', strHigh3)
	set(strSurrogate, 'a', 'b', strHigh3)
	set(strSurrogate, 'A', 'B', strHigh3)
	hex(strHigh3, strHigh4)
	hex(strHigh4, strLow)
	set(strLow, '\\', '\\', strLowU)
	set(strLowU, 'u', 'u', strLowD)
	set(strLowD, 'd', 'd', strLow2)
	set(strLowD, 'D', 'D', strLow2)
	set(strLow2, 'c', 'f', strHex3)
	set(strLow2, 'C', 'F', strHex3)
	set(strCont1, 0x80, 0xBF, strBoundary)
	set(strCont2, 0x80, 0xBF, strCont1)
	set(strCont3, 0x80, 0xBF, strCont2)
	set(strE0, 0xA0, 0xBF, strCont1)
	set(strED, 0x80, 0x9F, strCont1)
	set(strF0, 0x90, 0xBF, strCont2)
	set(strF4, 0x80, 0x8F, strCont2)
	return d
}

// stringCosts returns the least number of single-byte tokens from each state to strBoundary, given which bytes are
// tokens.
func stringCosts(single *[256]bool) (cost [strStates]int32) {
	for q := range cost {
		cost[q] = costInfinite
	}
	cost[strBoundary] = 0
	for changed := true; changed; {
		changed = false
		for q := range cost {
			for b, to := range stringDFA[q] {
				if to < 0 || !single[b] {
					continue
				}
				if c := addCost(1, cost[to]); c < cost[q] {
					cost[q], changed = c, true
				}
			}
		}
	}
	return cost
}
