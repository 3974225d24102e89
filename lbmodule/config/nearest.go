package config

import (
	"slices"
	"strings"
)

// Nearest returns the candidate that word is most likely a misspelling of, or "" if none is similar: within two typing errors, or one if
// word is so short that two could turn it into any other word.
func Nearest(word string, candidates []string) string {
	most := 2
	if len(word) < 5 {
		most = 1
	}
	nearest := ""
	candidates = slices.Sorted(slices.Values(candidates)) // makes ties independent of the iteration order
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), c); d <= most {
			nearest, most = c, d-1
		}
	}
	return nearest
}

// DidYouMean returns a suggestion to append to an error about an unknown word: the nearest candidate, if there is one.
func DidYouMean(word string, candidates ...string) string {
	if nearest := Nearest(word, candidates); nearest != "" {
		return "; did you mean " + nearest + "?"
	}
	return ""
}

// distance returns the number of letters to insert, delete, replace or swap with a neighbour to turn a into b.
func distance(a, b string) int {
	var before, last []int // the rows of the table above this one
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(last[j]+1, row[j-1]+1, replaced)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
