package config

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"weight", "window", "name", "rate", "to", "on", "http", "max_requests", "lb_retries", "retry"}
	for word, want := range map[string]string{
		"weigth":      "weight", // swapped
		"wight":       "weight", // left out
		"weightt":     "weight", // too many
		"widnow":      "window",
		"max_request": "max_requests",
		"lb_retrys":   "lb_retries",
		"Weight":      "weight",
		"htp":         "http",
		"tp":          "to",
		"weight=3":    "weight",
		"mean":        "", // two slips in a short word make anything of it
		"frobnicate":  "",
		"":            "",
	} {
		if got := DidYouMean(word, words...); want == "" && got != "" || want != "" && got != "; did you mean "+want+"?" {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
	if got := Nearest("bac", []string{"bat", "bad", "bag"}); got != "bad" {
		t.Errorf("of three as near %q is named, want the first in the alphabet", got)
	}
	for _, pair := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3}} {
		if got := distance(pair.a, pair.b); got != pair.want {
			t.Errorf("distance of %q and %q is %d, want %d", pair.a, pair.b, got, pair.want)
		}
	}
}
