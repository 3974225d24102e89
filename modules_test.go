package ballast_test

import (
	"encoding/json"
	"go/version"
	"os/exec"
	"slices"
	"testing"
)

// modFile is what `go mod edit -json` tells of a go.mod.
type modFile struct {
	Go      string
	Require []struct{ Path, Version string }
}

func readModFile(t *testing.T, file string) modFile {
	t.Helper()
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
	"github.com/caddyserver/caddy/v2":    "what all is about",
	"github.com/redis/go-redis/v9":       "limits that nodes share",
	"go.uber.org/atomic":                 "go-redis needs it",
	"github.com/chromedp/cdproto":        "tests look at the dashboard",
	"github.com/chromedp/chromedp":       "the same",
	"github.com/go-json-experiment/json": "chromedp needs it",
	"github.com/klauspost/compress":      "the version of Caddy can panic while it packs",
}

// TestModules holds what users inherit who build Ballast into their Caddy: the versions that Caddy itself was tested with, its version of
// Go, and next to nothing else. What only tests and examples need counts here as well, because go.mod does not tell it apart.
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
		if !slices.ContainsFunc(our.Require, func(m struct{ Path, Version string }) bool { return m.Path == path }) {
			t.Errorf("go.mod does not require %s; it needs no exception", path)
		}
	}
}
