package config

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestValidateName(t *testing.T) {
	for _, name := range []string{"web", "10.0.0.1:80", "[::1]:80", "unix//run/app.sock", "a/b", "x-1_2~@+", "a:app.internal:80"} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "a b", "<script>", "é", "a\x00", "{x}", "a%b", "a?b", fmt.Sprintf("%129d", 1)} {
		if ValidateName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

// A backup is true or false, as ever, or has a level.
func TestBackupJSON(t *testing.T) {
	for text, want := range map[string]Backup{`true`: 1, `false`: 0, `0`: 0, `1`: 1, `2`: 2, `null`: 0} {
		var b Backup
		if err := json.Unmarshal([]byte(text), &b); err != nil || b != want {
			t.Errorf("%s is %d, %v; want %d", text, b, err, want)
		}
		written, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var again Backup
		if err := json.Unmarshal(written, &again); err != nil || again != want {
			t.Errorf("%d is written as %s, which reads as %d, %v", want, written, again, err)
		}
	}
}

// A max_requests is a number or auto, and nothing else is.
func TestMaxRequestsJSON(t *testing.T) {
	for text, want := range map[string]MaxRequests{`1`: 1, `10000000`: 10000000, `-1`: -1, `"auto"`: Auto, `null`: 0} {
		var m MaxRequests
		if err := json.Unmarshal([]byte(text), &m); err != nil || m != want {
			t.Errorf("%s is %d, %v; want %d", text, m, err, want)
		}
		if written, err := json.Marshal(want); err != nil || want != 0 && string(written) != text {
			t.Errorf("%d is written as %s, %v", want, written, err)
		}
	}
	for _, text := range []string{`0`, `"1"`, `"sometimes"`, `1.5`, `true`, `{}`, `[]`, `-2147483648`, `"Auto"`, `""`} {
		var m MaxRequests
		if err := json.Unmarshal([]byte(text), &m); err == nil {
			t.Errorf("%s is %d, want an error", text, m)
		}
	}
	for m, good := range map[MaxRequests]bool{Auto: true, 1: true, 10000000: true, 0: false, -1: false, 10000001: false} {
		if err := m.Check(""); (err == nil) != good {
			t.Errorf("%d: error %v", m, err)
		}
	}
}
