package ballast_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestFuzzTargets expects that each input that fuzz.sh lists has a target, and each target a corpus that is small enough to be read.
func TestFuzzTargets(t *testing.T) {
	script, err := os.ReadFile("fuzz.sh")
	if err != nil {
		t.Fatal(err)
	}
	inputs := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^(\S.*\S) {3,}(\S+)\.(Fuzz\w+)$`).FindAllStringSubmatch(string(script), -1) {
		input, dir, target := line[1], line[2], line[3]
		inputs[input] = true
		if !isTarget(t, dir, target) {
			t.Errorf("%s: there is no %s in %s", input, target, dir)
		}
		files, err := filepath.Glob(filepath.Join(dir, "testdata", "fuzz", target, "*"))
		if err != nil {
			t.Fatal(err)
		}
		size := int64(0)
		for _, file := range files {
			info, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			size += info.Size()
		}
		if len(files) == 0 || len(files) > 40 || size > 100<<10 {
			t.Errorf("%s: the corpus of %s in %s has %d files and %d bytes, want 1 to 40 and at most 100 KB", input, target, dir, len(files), size)
		}
	}
	if len(inputs) != 13 {
		t.Errorf("fuzz.sh lists the inputs %v, want 13", inputs)
	}
}

func isTarget(t *testing.T, dir, target string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^func ` + target + `\(f \*testing\.F\)`).Match(text) {
			return true
		}
	}
	return false
}
