package guide

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

func itoa(i int) string { return strconv.Itoa(i) }

// anyInteger has up to 15 digits, so that it is exact as a double too.
func anyInteger(b *builder) *node {
	digit, first := b.class(runeSet{{'0', '9'}}), b.class(runeSet{{'1', '9'}})
	positive := b.seq(first, b.repeat(digit, 0, significantDigitsMax-1))
	return b.alt(b.literal("0"), b.seq(b.optional(b.literal("-")), positive))
}

// anyNumber is a number of RFC 8259 with bounded digits.
func anyNumber(b *builder) *node {
	digit := b.class(runeSet{{'0', '9'}})
	fraction := b.seq(b.literal("."), b.repeat(digit, 1, significantDigitsMax))
	exponent := b.seq(b.class(runesOf("eE")), b.optional(b.class(runesOf("+-"))),
		b.repeat(digit, 1, exponentDigitsMax))
	return b.seq(anyInteger(b), b.optional(fraction), b.optional(exponent))
}

// numberNode writes the numbers of a shape. Ranges are exact: the digits of the bounds become an automaton.
func (c *schemaCompiler) numberNode(sh *shape) *node {
	integer := sh.types&typeFraction == 0
	if sh.low == nil && sh.high == nil {
		if integer {
			return c.any.integer
		}
		return c.any.number
	}
	c.where = sh.schemas[0].pointer
	digits := significantDigitsMax
	for _, b := range []*bound{sh.low, sh.high} {
		if b == nil {
			continue
		}
		whole, fraction, ok := decimal(b.value)
		if size := len(strings.TrimLeft(whole, "0")) + len(fraction); !ok || !integer && size > significantDigitsMax {
			panic(&Error{At: b.at, Problem: fmt.Sprintf("a bound with more than %d digits is not supported",
				significantDigitsMax), Hint: "round it"})
		}
		digits = min(digits, significantDigitsMax-len(whole))
	}
	r := ranges{c.builder, max(digits, 1)}
	var alts []*node
	zero := &bound{value: new(big.Rat)}
	if low := sh.low; low == nil || low.value.Sign() < 0 {
		// The negative numbers, mirrored; zero belongs to the others.
		from := &bound{value: new(big.Rat), open: true}
		if h := sh.high; h != nil && h.value.Sign() < 0 {
			from = &bound{value: new(big.Rat).Neg(h.value), open: h.open}
		}
		var to *bound
		if low != nil {
			to = &bound{value: new(big.Rat).Neg(low.value), open: low.open}
		}
		alts = append(alts, c.seq(c.literal("-"), r.between(from, to, integer)))
	}
	if high := sh.high; high == nil || high.value.Sign() > 0 || high.value.Sign() == 0 && !high.open {
		from := zero
		if sh.low != nil && sh.low.value.Sign() >= 0 {
			from = sh.low
		}
		alts = append(alts, r.between(from, high, integer))
	}
	return c.alt(alts...)
}

// decimal returns the digits of |v| before and after the point, without trailing zeros; ok is false if they do not
// end or are too many.
func decimal(v *big.Rat) (whole, fraction string, ok bool) {
	text := new(big.Rat).Abs(v).FloatString(numberTextMax)
	whole, fraction, _ = strings.Cut(text, ".")
	fraction = strings.TrimRight(fraction, "0")
	back, _ := new(big.Rat).SetString(whole + "." + fraction + "0")
	return whole, fraction, len(whole) <= numberTextMax && back.Cmp(new(big.Rat).Abs(v)) == 0
}

// ranges builds automata of decimal numbers; places is the most digits after the point.
type ranges struct {
	*builder
	places int
}

func (r ranges) digits(lo, hi byte) *node {
	if lo > hi {
		return failNode
	}
	return r.class(runeSet{{rune(lo), rune(hi)}})
}

func (r ranges) anyDigits(lo, hi int) *node { return r.repeat(r.digits('0', '9'), lo, hi) }

// between writes the numbers x with low <= x <= high (or < where a bound is open), 0 <= low. high may be nil.
func (r ranges) between(low, high *bound, integer bool) *node {
	if high != nil {
		if d := low.value.Cmp(high.value); d > 0 || d == 0 && (low.open || high.open) {
			return failNode
		}
	}
	lowWhole, lowFraction, _ := decimal(low.value)
	first := new(big.Int)
	first.SetString(lowWhole, 10)
	if integer {
		if lowFraction != "" || low.open {
			first.Add(first, big.NewInt(1))
		}
		if high == nil {
			return r.atLeast(first)
		}
		highWhole, highFraction, _ := decimal(high.value)
		last := new(big.Int)
		last.SetString(highWhole, 10)
		if highFraction == "" && high.open {
			last.Sub(last, big.NewInt(1))
		}
		return r.integers(first, last)
	}
	one := big.NewInt(1)
	anyFraction := r.optional(r.seq(r.literal("."), r.anyDigits(1, r.places)))
	after := new(big.Int).Add(first, one)
	if high == nil {
		return r.alt(r.seq(r.literal(lowWhole), r.fraction(&edge{lowFraction, low.open}, nil)),
			r.seq(r.atLeast(after), anyFraction))
	}
	highWhole, highFraction, _ := decimal(high.value)
	last := new(big.Int)
	last.SetString(highWhole, 10)
	if first.Cmp(last) == 0 {
		return r.seq(r.literal(lowWhole), r.fraction(&edge{lowFraction, low.open}, &edge{highFraction, high.open}))
	}
	return r.alt(r.seq(r.literal(lowWhole), r.fraction(&edge{lowFraction, low.open}, nil)),
		r.seq(r.integers(after, new(big.Int).Sub(last, one)), anyFraction),
		r.seq(r.literal(highWhole), r.fraction(nil, &edge{highFraction, high.open})))
}

// atLeast writes the integers from low on, up to 15 digits or one more than low has.
func (r ranges) atLeast(low *big.Int) *node {
	digits := len(low.String())
	most := max(significantDigitsMax, digits+1)
	nines := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	return r.alt(r.integers(low, nines.Sub(nines, big.NewInt(1))),
		r.seq(r.digits('1', '9'), r.anyDigits(digits, most-1)))
}

// integers writes the integers low..high, 0 <= low.
func (r ranges) integers(low, high *big.Int) *node {
	if low.Cmp(high) > 0 {
		return failNode
	}
	lo, hi := low.String(), high.String()
	if len(lo) == len(hi) {
		return r.sameLength(lo, hi)
	}
	alts := []*node{r.sameLength(lo, strings.Repeat("9", len(lo)))}
	if len(hi)-len(lo) > 1 {
		alts = append(alts, r.seq(r.digits('1', '9'), r.anyDigits(len(lo), len(hi)-2)))
	}
	return r.alt(append(alts, r.sameLength("1"+strings.Repeat("0", len(hi)-1), hi))...)
}

// sameLength writes the digit strings lo..hi, which are equally long.
func (r ranges) sameLength(lo, hi string) *node {
	n := len(lo)
	switch {
	case lo == hi:
		return r.literal(lo)
	case lo[0] == hi[0]:
		return r.seq(r.literal(lo[:1]), r.sameLength(lo[1:], hi[1:]))
	case n == 1:
		return r.digits(lo[0], hi[0])
	}
	all0, all9 := strings.Repeat("0", n-1), strings.Repeat("9", n-1)
	from, to := lo[0], hi[0]
	var alts []*node
	if lo[1:] != all0 {
		alts = append(alts, r.seq(r.literal(lo[:1]), r.sameLength(lo[1:], all9)))
		from++
	}
	if hi[1:] != all9 {
		alts = append(alts, r.seq(r.literal(hi[:1]), r.sameLength(all0, hi[1:])))
		to--
	}
	if from <= to {
		alts = append(alts, r.seq(r.digits(from, to), r.anyDigits(n-1, n-1)))
	}
	return r.alt(alts...)
}

// edge is a bound of a fraction: its digits without trailing zeros, and whether it is excluded.
type edge struct {
	digits string
	open   bool
}

// fraction writes the point and the digits of a fraction between two edges, either of which may be nil.
func (r ranges) fraction(low, high *edge) *node {
	tail, empty := r.tail(low, high, r.places)
	n := r.seq(r.literal("."), tail)
	if empty {
		return r.optional(n)
	}
	return n
}

// tail writes one or more digits, at most places, that continue a fraction between the edges. empty says that no
// digits at all would do as well.
func (r ranges) tail(low, high *edge, places int) (n *node, empty bool) {
	empty = (low == nil || low.digits == "" && !low.open) && (high == nil || high.digits != "" || !high.open)
	if places == 0 {
		return failNode, empty
	}
	if low == nil && high == nil {
		return r.anyDigits(1, places), true
	}
	from, to := byte('0'), byte('9')
	if low != nil && low.digits != "" {
		from = low.digits[0]
	}
	if high != nil {
		to = '0'
		if high.digits != "" {
			to = high.digits[0]
		}
	}
	var alts []*node
	// along adds the digits that stand on an edge, with what may follow them.
	along := func(digit byte, low, high *edge) {
		rest, end := r.tail(low, high, places-1)
		if end {
			rest = r.alt(rest, emptyNode)
		}
		alts = append(alts, r.seq(r.literal(string(rune(digit))), rest))
	}
	next := func(e *edge) *edge {
		if e == nil {
			return nil
		}
		if e.digits == "" {
			return e
		}
		return &edge{e.digits[1:], e.open}
	}
	inner, last := from, to
	switch {
	case low != nil && high != nil && from == to:
		along(from, next(low), next(high))
		return r.alt(alts...), empty
	case low != nil && high != nil && from > to:
		return failNode, empty
	}
	if low != nil {
		along(from, next(low), nil)
		inner++
	}
	if high != nil {
		along(to, nil, next(high))
		last--
	}
	if inner <= last {
		alts = append(alts, r.seq(r.digits(inner, last), r.anyDigits(0, places-1)))
	}
	return r.alt(alts...), empty
}
