package dump

import "testing"

type node struct {
	name  string
	next  *node
	by    map[string]int
	any   any
	twice []*node
}

func TestDescriptionsTellValuesApart(t *testing.T) {
	make := func() *node {
		n := &node{name: "a", by: map[string]int{"x": 1, "y": 2}, any: 3}
		n.next, n.twice = n, []*node{n, {name: "b"}}
		return n
	}
	if a, b := Of(make()), Of(make()); a != b {
		t.Errorf("equal values are described as\n%s\n%s", a, b)
	}
	for i, change := range []func(*node){
		func(n *node) { n.name = "b" }, func(n *node) { n.next = nil }, func(n *node) { n.by["y"] = 3 }, func(n *node) { n.any = int64(3) },
		func(n *node) { n.twice[1].name = "c" }, func(n *node) { n.twice[1] = n }, func(n *node) { n.next = &node{} },
	} {
		n := make()
		change(n)
		if Of(n) == Of(make()) {
			t.Errorf("change %d is not described", i)
		}
	}
}
