package config

// nearMax is how many edits apart two names can be and still be one misspelt.
const nearMax = 2

// Nearest returns the candidate that name is probably a misspelling of, or "".
func Nearest(name string, candidates []string) string {
	best, distance := "", nearMax+1
	for _, c := range candidates {
		if d := edits(name, c); d < distance && 2*d < len(c) {
			best, distance = c, d
		}
	}
	return best
}

// edits is the Levenshtein distance of two strings in bytes, or more than nearMax if it is more.
func edits(a, b string) int {
	if gap := len(a) - len(b); gap > nearMax || gap < -nearMax {
		return nearMax + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
