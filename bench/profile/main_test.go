package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const profile = "../../cmd/caddy/default.pgo"

// TestProfile holds that the compiler can read default.pgo, and finds in it what a request runs through: a file that is
// damaged, or of another program, would cost time at each build and change nothing.
func TestProfile(t *testing.T) {
	edges := filepath.Join(t.TempDir(), "edges") // who calls whom, as the compiler is told
	if out, err := exec.Command("go", "tool", "preprofile", "-i", profile, "-o", edges).CombinedOutput(); err != nil {
		t.Fatalf("reading default.pgo: %v\n%s", err, out)
	}
	text, err := os.ReadFile(edges)
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/ballastlb/ballast/"
	for _, folder := range []string{"lbmodule", "lbmodule/front", "lbmodule/exchange", "lbmodule/stock", "lbmodule/engine", "ratelimit/bucket"} {
		if !strings.Contains(string(text), module+folder+".") {
			t.Errorf("default.pgo names no function of %s%s; make profile takes it anew", module, folder)
		}
	}
}

// TestProfileSize keeps the repository small: each new profile stays in its history.
func TestProfileSize(t *testing.T) {
	const most = 300 << 10
	info, err := os.Stat(profile)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > most {
		t.Errorf("default.pgo has %d bytes, want at most %d", info.Size(), most)
	}
}
