package guide

import (
	"context"
	"fmt"
	"sync"
	"time"
	"unsafe"
)

// Grammar is a constraint compiled for a vocabulary. It is safe for concurrent use; what it learns while it is used
// (states and masks) is shared by all of its matchers.
type Grammar struct {
	v           *Vocabulary
	minTokens   int
	compileTime time.Duration
	staticBytes int
	start       *set
	names       bool // see grammarIR

	mu sync.Mutex // guards m
	m  *machine
}

// Compile builds the automaton of a constraint. Time and memory are bounded by the limits in limits.go. The error is
// an *Error, or ctx's error if it ended first.
func Compile(ctx context.Context, spec Spec, v *Vocabulary) (g *Grammar, err error) {
	began := time.Now()
	ir, err := spec.parse()
	if err != nil {
		return nil, err
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Error:
			g, err = nil, p
		default:
			panic(p)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := assemble(ir)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := p.solve(v)
	if c.tokens[p.start] >= costInfinite {
		return nil, &Error{Problem: "no answer can satisfy the constraint",
			Hint: "look for contradictions, and for text that the model's vocabulary cannot write"}
	}
	if c.depth[p.start] > stackDepthMax {
		return nil, &Error{Problem: fmt.Sprintf("the shortest answer nests deeper than %d levels", stackDepthMax),
			Hint: "make the constraint flatter"}
	}
	g = &Grammar{v: v, names: ir.names, m: newMachine(p, c, v), minTokens: int(c.tokens[p.start])}
	g.start = g.m.start()
	p.prepareRuns(v)
	g.staticBytes = p.size()
	g.compileTime = time.Since(began)
	return g, nil
}

// runTablesAhead is the number of classes whose tables Compile has built, at some milliseconds each the first time
// that a vocabulary meets the class. Those of further classes are built when a mask needs them.
const runTablesAhead = 6

func (p *program) prepareRuns(v *Vocabulary) {
	left := runTablesAhead
	for _, c := range p.classes {
		if left > 0 && c.set.size() >= runRunesMin {
			v.runTable(c)
			for _, l := range v.behind {
				l.runTable(c)
			}
			left--
		}
	}
}

// size estimates the bytes of the program and its costs.
func (p *program) size() int {
	size := len(p.code) * (int(unsafe.Sizeof(instruction{})) + 8)
	for i := range p.code {
		size += 4 * len(p.code[i].outs)
	}
	for _, c := range p.classes {
		size += len(c.next)*512 + len(c.cost)*4
	}
	return size
}

// MinTokens returns a number of tokens that is always enough for an answer; a request with a smaller max_tokens
// should be refused. Shorter answers may exist where tokens span parts of the grammar.
func (g *Grammar) MinTokens() int { return g.minTokens }

// CompileTime returns how long Compile took.
func (g *Grammar) CompileTime() time.Duration { return g.compileTime }

// Bytes returns about how much memory the grammar holds now, learned states and masks included. It changes with use
// and stays below a bound of about cacheBytesMax plus the automaton.
func (g *Grammar) Bytes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.staticBytes + g.m.bytes
}

// NewMatcher begins an answer.
func (g *Grammar) NewMatcher() *Matcher {
	m := &Matcher{g: g, at: g.start}
	if g.names {
		m.names = &names{}
	}
	return m
}
