package ballast_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ballastlb/ballast"

// arrows says which of our packages each of our packages may import. Packages that are not named here start
// programs or test them: they may import everything, and nobody imports them.
var arrows = map[string][]string{
	"":              {"caddyfile", "command", "lbmodule", "lbmodule/admin", "ratelimit"},
	"command":       {"command/api", "command/plain", "command/top"},
	"command/api":   nil,
	"command/plain": {"command/api"},
	"command/top":   {"command/api", "command/plain"},
	"caddyfile":     {"caddyapp", "lbmodule", "lbmodule/admin", "lbmodule/config", "lbmodule/policies", "ratelimit"},
	"lbmodule": {
		"breaker",
		"caddyapp",
		"healthcheck",
		"lbmodule/app",
		"lbmodule/balance",
		"lbmodule/config",
		"lbmodule/course",
		"lbmodule/engine",
		"lbmodule/front",
		"lbmodule/manage",
		"lbmodule/policies",
		"lbmodule/pool",
		"lbmodule/service",
		"lbmodule/status",
		"lbmodule/stock",
	},
	"lbmodule/admin": {
		"caddyapp",
		"lbmodule/app",
		"lbmodule/config",
		"lbmodule/dashboard",
		"lbmodule/manage",
		"lbmodule/overlay",
		"lbmodule/policies",
		"lbmodule/pool",
		"lbmodule/service",
		"lbmodule/status",
	},
	"lbmodule/app": {
		"breaker",
		"caddyapp",
		"lbmodule/config",
		"lbmodule/dashboard",
		"lbmodule/manage",
		"lbmodule/overlay",
		"lbmodule/pool",
		"lbmodule/service",
		"lbmodule/status",
	},
	"lbmodule/status": {
		"breaker",
		"healthcheck",
		"lbmodule/config",
		"lbmodule/course",
		"lbmodule/manage",
		"lbmodule/overlay",
		"lbmodule/policies",
		"lbmodule/pool",
		"lbmodule/service",
	},
	"lbmodule/service": {
		"healthcheck",
		"healthcheck/probe",
		"lbmodule/balance",
		"lbmodule/config",
		"lbmodule/manage",
		"lbmodule/overlay",
		"lbmodule/policies",
		"lbmodule/pool",
		"lbmodule/stock",
	},
	"lbmodule/config":      {"caddyapp", "lbmodule/course", "lbmodule/pool", "lbmodule/balance", "breaker", "healthcheck"},
	"lbmodule/policies":    {"lbmodule/config", "lbmodule/pool", "lbmodule/balance"},
	"lbmodule/stock":       {"lbmodule/config", "lbmodule/engine", "healthcheck", "healthcheck/probe"},
	"lbmodule/dashboard":   nil,
	"lbmodule/engine":      nil,
	"lbmodule/front":       {"lbmodule/pool", "lbmodule/stock"},
	"lbmodule/manage":      {"lbmodule/config", "lbmodule/overlay", "lbmodule/pool"},
	"lbmodule/overlay":     nil,
	"lbmodule/course":      {"lbmodule/pool"},
	"lbmodule/exchange":    {"lbmodule/course", "lbmodule/pool"},
	"lbmodule/observe":     {"lbmodule/exchange", "lbmodule/course", "lbmodule/pool"},
	"lbmodule/pool":        {"lbmodule/balance", "breaker", "healthcheck"},
	"lbmodule/balance":     nil,
	"breaker":              nil,
	"healthcheck":          nil,
	"healthcheck/probe":    {"healthcheck"},
	"ratelimit":            {"caddyapp", "ratelimit/bucket", "ratelimit/redisstore"},
	"caddyapp":             nil,
	"ratelimit/bucket":     nil,
	"ratelimit/redisstore": nil,
	"bench/openloop":       nil, // tests put loads on, too

	"lbmodule/dashboard/fake": {"lbmodule/dashboard"}, // tests look at it, too
}

// cores are the packages that know no framework.
var cores = []string{
	"breaker",
	"command/api",
	"command/plain",
	"command/top",
	"healthcheck",
	"healthcheck/probe",
	"lbmodule/balance",
	"lbmodule/course",
	"lbmodule/dashboard",
	"lbmodule/engine",
	"lbmodule/overlay",
	"lbmodule/pool",
	"ratelimit/bucket",
}

var frameworks = []string{"github.com/caddyserver/", "go.uber.org/zap", "github.com/prometheus/", "go.opentelemetry.io/"}

// pure are the cores that do not even know HTTP.
var pure = []string{
	"breaker",
	"healthcheck",
	"lbmodule/balance",
	"lbmodule/course",
	"lbmodule/overlay",
	"lbmodule/pool",
	"ratelimit/bucket",
}

func TestLayering(t *testing.T) {
	// One line a package: its path, then what it imports.
	for _, line := range goList(t, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...") {
		fields := strings.Fields(line)
		name := short(fields[0])
		allowed, named := arrows[name]
		for _, imported := range fields[1:] {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			target := short(imported)
			if _, ok := arrows[target]; named && !slices.Contains(allowed, target) {
				t.Errorf("%s imports %s, but may import %q of ours only", fields[0], imported, allowed)
			} else if !ok && !strings.HasPrefix(target, topFolder(name)+"/") {
				t.Errorf("%s imports %s, which is for nobody outside its folder", fields[0], imported)
			}
		}
	}
	for _, core := range cores {
		if _, err := os.Stat(core); err != nil {
			continue // not built yet
		}
		for _, dep := range goList(t, "-deps", "./"+core) {
			for _, framework := range frameworks {
				if strings.HasPrefix(dep, framework) {
					t.Errorf("%s depends on %s: the cores know no framework", core, dep)
				}
			}
			if dep == "net/http" && slices.Contains(pure, core) {
				t.Errorf("%s depends on %s", core, dep)
			}
		}
	}
}

func short(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

func topFolder(name string) string {
	top, _, _ := strings.Cut(name, "/")
	return top
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// TestFileSizes keeps rooms small: a file that outgrows this has two things in it.
func TestFileSizes(t *testing.T) {
	const most = 500
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte("\n")); n > most {
			t.Errorf("%s has %d lines, want at most %d", path, n, most)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
