package ballast_test

import (
	"encoding/json"
	"go/version"
	"os"
	"os/exec"
	"slices"
	"testing"
)

// modFile is what `go mod edit -json` tells of a go.mod.
type modFile struct {
	Go        string
	Toolchain string
	Require   []moduleVersion
	Replace   []struct{ Old, New moduleVersion }
}

type moduleVersion struct{ Path, Version string }

// version returns the version that the file requires of a module, "" if it requires none.
func (f modFile) version(path string) string {
	for _, m := range f.Require {
		if m.Path == path {
			return m.Version
		}
	}
	return ""
}

func readModFile(t *testing.T, file string) modFile {
	t.Helper()
	if _, err := os.Stat(file); err != nil { // so that a result is not cached longer than the file stays the same
		t.Fatal(err)
	}
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var f modFile
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// exceptions are the modules that a build of Caddy does not have without Ballast, or has in another version, and why.
var exceptions = map[string]string{
	"github.com/caddyserver/caddy/v2": "what all is about",
	"github.com/redis/go-redis/v9":    "limits that nodes share",
	"go.uber.org/atomic":              "go-redis needs it",
	"github.com/klauspost/compress":   "the version of Caddy can panic while it packs",
}

// TestModules holds what users inherit who build Ballast into their Caddy: the versions that Caddy itself was tested with, its version of
// Go, and next to nothing else. What only the tests and examples of this module need counts here as well, because go.mod does not tell it
// apart; what only those of integration/ need does not.
func TestModules(t *testing.T) {
	caddyFile := goList(t, "-m", "-f", "{{.GoMod}}", "github.com/caddyserver/caddy/v2")[0]
	caddys, our := readModFile(t, caddyFile), readModFile(t, "go.mod")
	if version.Compare("go"+our.Go, "go"+caddys.Go) > 0 {
		t.Errorf("go.mod asks for Go %s, Caddy for %s only", our.Go, caddys.Go)
	}
	if len(our.Require) < 10 || len(caddys.Require) < 10 {
		t.Fatalf("%d and %d modules; this test does not see them", len(our.Require), len(caddys.Require))
	}
	for _, m := range our.Require {
		same := slices.Contains(caddys.Require, m)
		if _, known := exceptions[m.Path]; !same && !known {
			t.Errorf("go.mod requires %s %s, and Caddy does not, in this version: users would inherit it", m.Path, m.Version)
		} else if same && known {
			t.Errorf("%s %s is Caddy's as well; it needs no exception", m.Path, m.Version)
		}
	}
	for path := range exceptions {
		if our.version(path) == "" {
			t.Errorf("go.mod does not require %s; it needs no exception", path)
		}
	}
}

// TestModulesOfIntegration expects that integration/ tests this tree, and with what users have: the same versions of Go and of all modules
// that are in both files.
func TestModulesOfIntegration(t *testing.T) {
	our, tests := readModFile(t, "go.mod"), readModFile(t, "integration/go.mod")
	if tests.Go != our.Go || tests.Toolchain != our.Toolchain {
		t.Errorf("integration/go.mod asks for Go %s %s, go.mod for %s %s", tests.Go, tests.Toolchain, our.Go, our.Toolchain)
	}
	if len(tests.Replace) != 1 || tests.Replace[0].Old != (moduleVersion{Path: module}) || tests.Replace[0].New != (moduleVersion{Path: "../"}) {
		t.Errorf("integration/go.mod replaces %+v, want %s => ../ and nothing else", tests.Replace, module)
	}
	if len(our.Replace) != 0 {
		t.Errorf("go.mod replaces %+v; that does not hold for users, and integration/ would not have it", our.Replace)
	}
	shared := 0
	for _, m := range tests.Require {
		switch v := our.version(m.Path); v {
		case "":
		case m.Version:
			shared++
		default:
			t.Errorf("integration/go.mod requires %s %s, go.mod %s", m.Path, m.Version, v)
		}
	}
	if shared < 100 {
		t.Errorf("%d modules are in both files; this test does not see them", shared)
	}
}
