package guide

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// names follows the JSON in an answer as far as the names in its objects go, so that none comes twice: the automaton
// cannot know which undeclared names an object has. Text that is no JSON, as grammars may have it around %json, is
// passed over outside of braces; where it is not understood, nothing is forbidden.
type names struct {
	place   place
	expects bool        // in an object, where the next string is a name
	escape  bool        // the byte before was a backslash that escapes this one
	escaped bool        // raw has an escape
	raw     []byte      // the name in progress, as it is written
	stack   []container // what is open
	probe   *names      // scratch of repeats
}

type place uint8

const (
	outside place = iota // of arrays and objects
	between              // strings, in an array or object
	inName
	afterName
	inString
	lost
)

// container is an open array or object.
type container struct {
	object bool
	used   []string // its names so far, decoded and sorted. Never changed in place: clones share it
}

func (n *names) clone() *names {
	out := *n
	out.raw, out.stack, out.probe = slices.Clone(n.raw), slices.Clone(n.stack), nil
	return &out
}

// feed reads a byte and reports whether a name ends with it.
func (n *names) feed(b byte) bool {
	switch n.place {
	case lost:
	case inName, inString:
		return n.feedString(b)
	case afterName:
		switch b {
		case ':':
			n.place, n.expects = between, false
		case ' ', '\t', '\n', '\r':
		default:
			n.place = lost
		}
	default:
		n.feedBetween(b)
	}
	return false
}

func (n *names) feedString(b byte) (ends bool) {
	closes := b == '"' && !n.escape
	n.escape = b == '\\' && !n.escape
	switch {
	case closes && n.place == inName:
		n.place = afterName
		return true
	case closes:
		n.place = n.level()
	case n.place == inName:
		n.raw = append(n.raw, b)
		n.escaped = n.escaped || b == '\\'
	}
	return false
}

func (n *names) feedBetween(b byte) {
	switch b {
	case '"':
		n.place = inString
		if n.expects {
			n.place, n.raw, n.escaped = inName, n.raw[:0], false
		}
	case ',':
		n.expects = len(n.stack) > 0 && n.stack[len(n.stack)-1].object
	case '{', '[':
		n.stack = append(n.stack, container{object: b == '{'})
		n.place, n.expects = between, b == '{'
	case '}', ']':
		switch top := len(n.stack) - 1; {
		case top < 0:
		case n.stack[top].object != (b == '}'):
			n.place = lost
		default:
			n.stack, n.expects = n.stack[:top], false
			n.place = n.level()
		}
	}
}

func (n *names) level() place {
	if len(n.stack) == 0 {
		return outside
	}
	return between
}

// name is the name in progress, decoded.
func (n *names) name() string {
	if !n.escaped {
		return string(n.raw)
	}
	var text string
	if json.Unmarshal(slices.Concat([]byte{'"'}, n.raw, []byte{'"'}), &text) != nil {
		return string(n.raw) // the constraint lets no such name end
	}
	return text
}

// find looks for the name in progress among those of its object.
func (n *names) find() (name string, at int, found bool) {
	name = n.name()
	at, found = slices.BinarySearch(n.stack[len(n.stack)-1].used, name)
	return name, at, found
}

// accept reads the text of a token.
func (n *names) accept(text []byte) {
	for _, b := range text {
		if n.feed(b) {
			n.add()
		}
	}
}

func (n *names) add() {
	name, at, found := n.find()
	if top := &n.stack[len(n.stack)-1]; !found {
		top.used = slices.Concat(top.used[:at], []string{name}, top.used[at:])
	}
}

// repeats reports whether a text would end a name that its object has already, and whether it would stop within a name
// where closing it would do so.
func (n *names) repeats(text []byte) (closed, open bool) {
	if n.probe == nil {
		n.probe = &names{}
	}
	p := n.probe
	raw, stack := append(p.raw[:0], n.raw...), append(p.stack[:0], n.stack...)
	*p = *n
	p.raw, p.stack, p.probe = raw, stack, nil
	for i, b := range text {
		if !p.feed(b) {
			continue
		}
		if _, _, found := p.find(); found {
			return true, false
		}
		if bytes.Count(text[i+1:], quoteByte) >= 2 { // the text may have another name
			p.add()
		}
	}
	if p.place == inName && !p.escape {
		_, _, open = p.find()
	}
	return false, open
}

var quoteByte = []byte{'"'}

// any reports whether there is a name that could be repeated.
func (n *names) any() bool {
	return n.place != lost && slices.ContainsFunc(n.stack, func(c container) bool { return len(c.used) > 0 })
}

// quoted are a vocabulary's tokens with quotes, by what it takes that they end a name which they do not begin with.
type quoted struct {
	all   []int32
	plain []int32 // of all, those with one quote and no backslash: what they do to a name is told by their beginning
	mixed []int32 // those with one quote and a backslash
	two   []int32 // those with two quotes
	more  []int32
}

func (q *quoted) add(id int32, text []byte) {
	count := bytes.Count(text, quoteByte)
	if count == 0 {
		return
	}
	q.all = append(q.all, id)
	switch {
	case count > 2:
		q.more = append(q.more, id)
	case count == 2:
		q.two = append(q.two, id)
	case bytes.IndexByte(text, '\\') >= 0:
		q.mixed = append(q.mixed, id)
	default:
		q.plain = append(q.plain, id)
	}
}

// forbid takes the tokens out of a mask that would repeat a name.
func (n *names) forbid(v *Vocabulary, mask []uint32) {
	lists := [][]int32{v.quoted.more}
	switch n.place {
	case inName:
		lists = append(lists, v.quoted.two, v.quoted.mixed)
		if n.escaped || n.escape {
			lists = append(lists, v.quoted.plain)
		} else {
			n.eachRest(func(rest string) { v.clearBeneath(mask, rest+`"`, false) })
		}
	case between, afterName:
		lists = append(lists, v.quoted.two)
	}
	for _, list := range lists {
		for _, id := range list {
			if hasBit(mask, id) {
				if closed, _ := n.repeats(v.text[id]); closed {
					clearBit(mask, id)
				}
			}
		}
	}
}

// forbidOpen takes the tokens out of a mask after which a name could not end at once.
func (n *names) forbidOpen(v *Vocabulary, mask []uint32) {
	for _, id := range v.quoted.all {
		if hasBit(mask, id) {
			if _, open := n.repeats(v.text[id]); open {
				clearBit(mask, id)
			}
		}
	}
	if n.place != inName {
		return
	}
	if !n.escaped && !n.escape {
		n.eachRest(func(rest string) { v.clearBeneath(mask, rest, true) })
		return
	}
	for id, text := range v.text {
		if hasBit(mask, int32(id)) {
			if _, open := n.repeats(text); open {
				clearBit(mask, int32(id))
			}
		}
	}
}

// eachRest calls found with what is missing to each name of the object that the one in progress is the beginning of.
func (n *names) eachRest(found func(rest string)) {
	used, begin := n.stack[len(n.stack)-1].used, string(n.raw)
	at, _ := slices.BinarySearch(used, begin)
	for ; at < len(used) && strings.HasPrefix(used[at], begin); at++ {
		found(used[at][len(begin):])
	}
}

// clearBeneath takes the tokens out of a mask that begin with a text or, if exact, are it.
func (v *Vocabulary) clearBeneath(mask []uint32, text string, exact bool) {
	nodes := v.trie.nodes
	i, end := 0, len(nodes)
	for k := range len(text) {
		for i < end && nodes[i].b != text[k] {
			i = int(nodes[i].end)
		}
		if i >= end {
			return
		}
		if k < len(text)-1 {
			end = int(nodes[i].end)
			i++
		}
	}
	if len(text) == 0 {
		return
	}
	last := int(nodes[i].end)
	if exact {
		last = i + 1
	}
	for ; i < last; i++ {
		if nodes[i].value >= 0 {
			for _, id := range v.same[nodes[i].value] {
				clearBit(mask, id)
			}
		}
	}
}

func hasBit(mask []uint32, id int32) bool { return mask[id>>5]&(1<<(id&31)) != 0 }

func clearBit(mask []uint32, id int32) { mask[id>>5] &^= 1 << (id & 31) }

func anyBit(mask []uint32) bool {
	return slices.ContainsFunc(mask, func(w uint32) bool { return w != 0 })
}
