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
