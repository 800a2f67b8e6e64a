package checkpoint

import (
	"errors"
	"fmt"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// metadata reads typed values and gathers what is wrong with them, so that a person sees every problem of
// a file at once. A key that is absent has its default. Keys that begin with a dot are under the
// architecture's name.
type metadata struct {
	file     *gguf.File
	arch     string
	problems []error
}

// problemsMax bounds the errors gathered from one file.
const problemsMax = 20

func (m *metadata) failf(format string, args ...any) {
	if len(m.problems) < problemsMax {
		m.problems = append(m.problems, fmt.Errorf(format, args...))
	}
}

// err returns the problems found so far.
func (m *metadata) err() error {
	if err := errors.Join(m.problems...); err != nil {
		return fmt.Errorf("gguf: %s: %w", m.file.Label(), err)
	}
	return nil
}

func (m *metadata) get(key string) (gguf.Value, bool) {
	if key[0] == '.' {
		key = m.arch + key
	}
	return m.file.Meta(key)
}

func (m *metadata) name(key string) string {
	if key[0] == '.' {
		return m.arch + key
	}
	return key
}

func (m *metadata) has(key string) bool { _, ok := m.get(key); return ok }

// integer returns a whole number, or def where the key is absent. An array, with a number for each layer,
// must hold the same one throughout.
func (m *metadata) integer(key string, def int) int {
	v, ok := m.get(key)
	if !ok {
		return def
	}
	if each, ok := v.Ints(); ok && len(each) > 0 {
		for _, n := range each {
			if n != each[0] {
				m.failf("metadata %q differs between layers (%d and %d), which is not supported", m.name(key), each[0], n)
				return def
			}
		}
		return int(each[0])
	}
	n, ok := v.Int()
	if !ok || int64(int(n)) != n {
		m.failf("metadata %q is %v, want a whole number", m.name(key), v)
	}
	return int(n)
}

// required is integer for a key that has no default.
func (m *metadata) required(key string) int {
	if !m.has(key) {
		m.failf("metadata %q is missing: the file is incomplete, convert the model again", m.name(key))
	}
	return m.integer(key, 0)
}

func (m *metadata) number(key string, def float64) float64 {
	v, ok := m.get(key)
	if !ok {
		return def
	}
	if x, ok := v.Float(); ok && x-x == 0 {
		return x
	}
	if n, ok := v.Int(); ok {
		return float64(n)
	}
	m.failf("metadata %q is %v, want a finite number", m.name(key), v)
	return def
}

func (m *metadata) boolean(key string, def bool) bool {
	v, ok := m.get(key)
	if !ok {
		return def
	}
	b, ok := v.Bool()
	if !ok {
		m.failf("metadata %q is %v, want true or false", m.name(key), v)
	}
	return b
}

func (m *metadata) text(key, def string) string {
	v, ok := m.get(key)
	if !ok {
		return def
	}
	s, ok := v.Text()
	if !ok {
		m.failf("metadata %q is %v, want a string", m.name(key), v)
	}
	return s
}

// texts returns an array of strings, nil where the key is absent.
func (m *metadata) texts(key string) []string {
	v, ok := m.get(key)
	if !ok {
		return nil
	}
	out, ok := v.Texts()
	if !ok {
		m.failf("metadata %q is %v, want an array of strings", m.name(key), v)
	}
	return out
}

// ints returns an array of whole numbers, nil where the key is absent.
func (m *metadata) ints(key string) []int64 {
	v, ok := m.get(key)
	if !ok {
		return nil
	}
	out, ok := v.Ints()
	if !ok {
		m.failf("metadata %q is %v, want an array of whole numbers", m.name(key), v)
	}
	return out
}

// floats returns an array of numbers, nil where the key is absent.
func (m *metadata) floats(key string) []float64 {
	v, ok := m.get(key)
	if !ok {
		return nil
	}
	out, ok := v.Floats()
	if !ok {
		m.failf("metadata %q is %v, want an array of numbers", m.name(key), v)
	}
	return out
}
