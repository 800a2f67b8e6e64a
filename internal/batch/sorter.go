package batch

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
)

// record is what a sorter sorts, by key and then value.
type record struct {
	key   [16]byte
	value uint64
}

const (
	recordBytes = 24
	// recordsMemoryMax is how many records stay in memory: 12 MiB. More are sorted in runs in a file.
	recordsMemoryMax = 1 << 19
	runBufferBytes   = 32 << 10
)

// pair makes a key of two numbers.
func pair(a, b uint64) (k [16]byte) {
	binary.BigEndian.PutUint64(k[:8], a)
	binary.BigEndian.PutUint64(k[8:], b)
	return k
}

// unpair returns the numbers of a key.
func (r *record) unpair() (a, b uint64) {
	return binary.BigEndian.Uint64(r.key[:8]), binary.BigEndian.Uint64(r.key[8:])
}

func compareRecords(a, b record) int {
	if c := bytes.Compare(a.key[:], b.key[:]); c != 0 {
		return c
	}
	return cmp.Compare(a.value, b.value)
}

// sorter sorts any number of records within a fixed amount of memory (external merge sort). Records are
// added, then read as often as needed.
type sorter struct {
	dir       string // of the file
	memoryMax int    // records
	records   []record
	file      *os.File
	runs      []int64 // records of each run in the file
}

func newSorter(dir string) *sorter { return &sorter{dir: dir, memoryMax: recordsMemoryMax} }

func (s *sorter) add(r record) error {
	if len(s.records) >= s.memoryMax {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.records = append(s.records, r)
	return nil
}

// spill writes the records in memory as a sorted run.
func (s *sorter) spill() error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, ".troupe-batch-*")
		if err != nil {
			return err
		}
		s.file = f
		_ = os.Remove(f.Name()) // it lives until it is closed, also if the process is killed; close removes it otherwise
	}
	slices.SortFunc(s.records, compareRecords)
	w := bufio.NewWriterSize(s.file, readBufferBytes)
	var b [recordBytes]byte
	for i := range s.records {
		copy(b[:16], s.records[i].key[:])
		binary.BigEndian.PutUint64(b[16:], s.records[i].value)
		if _, err := w.Write(b[:]); err != nil {
			return err
		}
	}
	s.runs = append(s.runs, int64(len(s.records)))
	s.records = s.records[:0]
	return w.Flush()
}

// sorted returns a reader of all records in order. Nothing may be added afterwards.
func (s *sorter) sorted() (*merge, error) {
	slices.SortFunc(s.records, compareRecords)
	m := &merge{}
	if len(s.records) > 0 {
		m.runs = append(m.runs, &run{memory: s.records[1:], head: s.records[0]})
	}
	offset := int64(0)
	for _, n := range s.runs {
		part := io.NewSectionReader(s.file, offset, n*recordBytes)
		r := &run{r: bufio.NewReaderSize(part, runBufferBytes)}
		if _, err := r.advance(); err != nil {
			return nil, err
		}
		m.runs = append(m.runs, r)
		offset += n * recordBytes
	}
	heap.Init(m)
	return m, nil
}

func (s *sorter) close() {
	if s.file != nil {
		_ = s.file.Close()
		_ = os.Remove(s.file.Name()) // where open files cannot be removed
	}
}

// run is a sorted sequence of records: the rest of it and the first.
type run struct {
	memory []record
	r      *bufio.Reader // nil for a run in memory
	head   record
}

// advance makes the next record the head; it reports false at the end.
func (r *run) advance() (bool, error) {
	if r.r == nil {
		if len(r.memory) == 0 {
			return false, nil
		}
		r.head, r.memory = r.memory[0], r.memory[1:]
		return true, nil
	}
	var b [recordBytes]byte
	if _, err := io.ReadFull(r.r, b[:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return false, err
	}
	copy(r.head.key[:], b[:16])
	r.head.value = binary.BigEndian.Uint64(b[16:])
	return true, nil
}

// merge reads sorted runs as one. It is the heap of the runs by their heads.
type merge struct{ runs []*run }

func (m *merge) Len() int           { return len(m.runs) }
func (m *merge) Less(i, j int) bool { return compareRecords(m.runs[i].head, m.runs[j].head) < 0 }
func (m *merge) Swap(i, j int)      { m.runs[i], m.runs[j] = m.runs[j], m.runs[i] }
func (m *merge) Push(any)           { panic("batch: a merge gains no runs") }

// Pop removes the last run, for package heap.
func (m *merge) Pop() any {
	last := m.runs[len(m.runs)-1]
	m.runs = m.runs[:len(m.runs)-1]
	return last
}

// peek returns the next record without taking it, or nil at the end.
func (m *merge) peek() *record {
	if len(m.runs) == 0 {
		return nil
	}
	return &m.runs[0].head
}

// drop takes the next record.
func (m *merge) drop() error {
	more, err := m.runs[0].advance()
	if err != nil {
		return err
	}
	if more {
		heap.Fix(m, 0)
	} else {
		heap.Pop(m)
	}
	return nil
}
