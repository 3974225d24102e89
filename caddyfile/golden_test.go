package caddyfile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the fixtures adapt to into them")

const fixtureSeparator = "\n----------\n"

// TestGolden adapts the Caddyfile of each fixture and compares it with what stands below the dashes: JSON, or the
// error.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			fixture, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, found := strings.Cut(string(fixture), fixtureSeparator)
			if !found && !*update {
				t.Fatal("no line of dashes")
			}
			got, adaptErr := adapt(input + "\n")
			if adaptErr != nil {
				got = []byte(adaptErr.Error())
			} else {
				var indented bytes.Buffer
				if err := json.Indent(&indented, got, "", "\t"); err != nil {
					t.Fatal(err)
				}
				got = indented.Bytes()
			}
			if *update {
				text := input + fixtureSeparator + string(got) + "\n"
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want = strings.TrimSpace(want)
			if adaptErr != nil || !strings.HasPrefix(want, "{") {
				if string(got) != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				return
			}
			decodeHandlers(t, decode(t, got))
			if !reflect.DeepEqual(decode(t, got), decode(t, []byte(want))) {
				t.Errorf("adapts to\n%s\nwant\n%s", got, want)
			}
		})
	}
}
