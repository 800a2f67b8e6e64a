package tokenizers

import (
	"slices"
	"strings"
)

// trie finds which of a fixed set of strings begin at a place in a text. Nodes are numbered; the edges of a
// node are sorted and next to each other.
type trie struct {
	// root[b] is the child of the root under byte b, or 0.
	root  [256]int32
	nodes []trieNode
	edges []trieEdge
}

type trieNode struct {
	firstEdge, edgeCount int32
	value                int32 // of the string that ends here, or -1
}

type trieEdge struct {
	label byte
	to    int32
}

// newTrie builds a trie. Keys must be distinct and not empty; values must not be negative.
func newTrie(keys map[string]int32) *trie {
	sorted := make([]string, 0, len(keys))
	for key := range keys {
		sorted = append(sorted, key)
	}
	slices.SortFunc(sorted, strings.Compare)
	t := &trie{nodes: make([]trieNode, 1, len(keys)+1)}
	t.nodes[0].value = -1
	type pending struct {
		node     int32
		keys     []string
		consumed int
	}
	queue := []pending{{0, sorted, 0}}
	for len(queue) > 0 {
		p := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if len(p.keys) > 0 && len(p.keys[0]) == p.consumed {
			t.nodes[p.node].value = keys[p.keys[0]]
			p.keys = p.keys[1:]
		}
		t.nodes[p.node].firstEdge = int32(len(t.edges))
		for i := 0; i < len(p.keys); {
			label := p.keys[i][p.consumed]
			j := i + 1
			for j < len(p.keys) && p.keys[j][p.consumed] == label {
				j++
			}
			child := int32(len(t.nodes))
			t.nodes = append(t.nodes, trieNode{value: -1})
			t.edges = append(t.edges, trieEdge{label, child})
			queue = append(queue, pending{child, p.keys[i:j], p.consumed + 1})
			i = j
		}
		t.nodes[p.node].edgeCount = int32(len(t.edges)) - t.nodes[p.node].firstEdge
	}
	for _, e := range t.edges[t.nodes[0].firstEdge:][:t.nodes[0].edgeCount] {
		t.root[e.label] = e.to
	}
	return t
}

// child returns the node reached from node by byte b, or 0.
func (t *trie) child(node int32, b byte) int32 {
	n := &t.nodes[node]
	edges := t.edges[n.firstEdge : n.firstEdge+n.edgeCount]
	if len(edges) <= 8 {
		for _, e := range edges {
			if e.label == b {
				return e.to
			}
		}
		return 0
	}
	low, high := 0, len(edges)
	for low < high {
		middle := (low + high) / 2
		if edges[middle].label < b {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low < len(edges) && edges[low].label == b {
		return edges[low].to
	}
	return 0
}

// longest returns the longest key that text begins with, and its value; length is 0 if there is none.
func (t *trie) longest(text string) (length int, value int32) {
	if text == "" {
		return 0, 0
	}
	node := t.root[text[0]]
	for i := 1; node != 0; i++ {
		if v := t.nodes[node].value; v >= 0 {
			length, value = i, v
		}
		if i == len(text) {
			break
		}
		node = t.child(node, text[i])
	}
	return length, value
}

// find returns the leftmost place in text at from or later where a key begins, and the longest key there.
func (t *trie) find(text string, from int) (start, end int, value int32, ok bool) {
	for i := from; i < len(text); i++ {
		if t.root[text[i]] == 0 {
			continue
		}
		if length, value := t.longest(text[i:]); length > 0 {
			return i, i + length, value, true
		}
	}
	return 0, 0, 0, false
}
