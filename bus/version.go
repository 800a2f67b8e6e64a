package bus

import (
	"strconv"
	"strings"
)

// Compatible reports whether programs of two versions can work together: at most one minor version apart. Versions
// that are no numbers, as those of development builds, are not compared.
func Compatible(a, b string) bool {
	majorA, minorA, okA := parseVersion(a)
	majorB, minorB, okB := parseVersion(b)
	return !okA || !okB || majorA == majorB && max(minorA-minorB, minorB-minorA) <= 1
}

func parseVersion(v string) (major, minor int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return major, minor, err == nil && err2 == nil
}
