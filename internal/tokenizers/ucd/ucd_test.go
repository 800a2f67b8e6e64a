package ucd

import (
	"math/rand/v2"
	"testing"
	"unicode"
)

// TestSets compares set operations and compiled tables with direct membership tests.
func TestSets(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 0))
	random := func() Set {
		var ranges []Range
		for range rng.IntN(6) {
			lo := rune(rng.IntN(600))
			ranges = append(ranges, Range{lo, lo + rune(rng.IntN(60)) - 5})
		}
		return Of(ranges...)
	}
	for range 300 {
		a, b := random(), random()
		union, both, not := a.Union(b), a.Intersect(b), a.Negate()
		table, overlap := a.Compile(), false
		for r := rune(0); r < 800; r++ {
			inA, inB := a.Has(r), b.Has(r)
			overlap = overlap || inA && inB
			if union.Has(r) != (inA || inB) || both.Has(r) != (inA && inB) || not.Has(r) == inA || table.Has(r) != inA {
				t.Fatalf("%v and %v disagree at %d", a, b, r)
			}
			if table.ASCII[r&0xFF] != (r&0xFF < 0x80 && a.Has(r&0xFF)) {
				t.Fatalf("%v: ASCII table wrong at %d", a, r)
			}
		}
		if a.Disjoint(b) == overlap {
			t.Fatalf("%v and %v: disjoint is %v", a, b, !overlap)
		}
	}
}

// TestCategories checks that the categories partition all code points and agree with Go's on ASCII and Latin.
func TestCategories(t *testing.T) {
	t.Parallel()
	counts := map[rune]int{}
	for _, major := range []string{"L", "M", "N", "P", "S", "Z", "C"} {
		set, ok := Category(major)
		if !ok {
			t.Fatal(major)
		}
		for r := rune(0); r < 0x3000; r++ {
			if set.Has(r) {
				counts[r]++
			}
			if r < 0x370 && set.Has(r) != unicode.Is(unicode.Categories[major], r) && major != "C" {
				t.Errorf("%U: %s is %v", r, major, set.Has(r))
			}
		}
	}
	for r := rune(0); r < 0x3000; r++ {
		if counts[r] != 1 {
			t.Errorf("%U is in %d categories", r, counts[r])
		}
	}
	for _, name := range []string{"", "X", "Lx", "l"} {
		if _, ok := Category(name); ok {
			t.Errorf("category %q exists", name)
		}
	}
	if han, ok := Script("Han"); !ok || !han.Has('中') || han.Has('a') {
		t.Error("wrong Han")
	}
	if cham, ok := Script("Cham"); !ok || !cham.Has(0xAA00) {
		t.Error("wrong Cham")
	}
	if _, ok := Script("Klingon"); ok {
		t.Error("there is no Klingon")
	}
	if space, ok := Property("White_Space"); !ok || !space.Has(0x85) {
		t.Error("wrong White_Space")
	}
}

func TestLower(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"ABC xyz": "abc xyz", "ΣΑΣ": "σασ", "İI": "i\u0307i", "ǅ": "ǆ", "ÀÉ": "àé", "中": "中", "\U00010400": "\U00010428", "ẞ": "ß",
	} {
		if got := Lower(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
