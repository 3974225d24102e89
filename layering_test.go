package ballast_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ballastlb/ballast"

// arrows says which of our packages each of our packages may import. Packages that are not named here start
// programs or test them: they may import everything, and nobody imports them.
var arrows = map[string]string{
	"":          "caddyfile command listener lbmodule lbmodule/admin ratelimit", // registers
	"caddyfile": "lbmodule lbmodule/admin lbmodule/config lbmodule/policies lbmodule/discovery ratelimit caddyapp",

	"listener": "listener/lane listener/told listener/express lbmodule/app",
	"listener/lane": "listener/told listener/express listener/h1 lbmodule/socket lbmodule/service lbmodule/course lbmodule/exchange lbmodule/observe lbmodule/front lbmodule/pool " +
		"ratelimit",
	"listener/told":    "listener/h1",
	"listener/express": "listener/h1 lbmodule/app lbmodule/service lbmodule/exchange lbmodule/front ratelimit",
	"listener/h1":      "lbmodule/fieldline",

	"command":                 "command/api command/convert command/plain command/top lbmodule/simulate",
	"command/api":             "",
	"command/convert":         "command/convert/draft command/convert/haproxy command/convert/nginx",
	"command/convert/draft":   "",
	"command/convert/haproxy": "command/convert/draft",
	"command/convert/nginx":   "command/convert/draft",
	"command/plain":           "command/api",
	"command/top":             "command/api command/plain",

	"lbmodule": "lbmodule/app lbmodule/service lbmodule/exchange lbmodule/course lbmodule/front lbmodule/mirror lbmodule/observe lbmodule/stock " +
		"lbmodule/canary lbmodule/policies lbmodule/config lbmodule/pool breaker caddyapp",
	"lbmodule/admin": "lbmodule/app lbmodule/fleet lbmodule/history lbmodule/status lbmodule/service lbmodule/manage lbmodule/config lbmodule/policies lbmodule/pool " +
		"lbmodule/canary lbmodule/overlay lbmodule/dashboard caddyapp",
	"lbmodule/app": "lbmodule/fleet lbmodule/history lbmodule/status lbmodule/service lbmodule/manage lbmodule/config lbmodule/pool lbmodule/overlay breaker " +
		"lbmodule/canary lbmodule/dashboard caddyapp",
	"lbmodule/observe": "lbmodule/exchange lbmodule/course lbmodule/service lbmodule/status lbmodule/config lbmodule/pool",
	"lbmodule/status": "lbmodule/service lbmodule/course lbmodule/manage lbmodule/policies lbmodule/config lbmodule/pool lbmodule/overlay " +
		"lbmodule/canary breaker healthcheck caddyapp",
	"lbmodule/service": "lbmodule/course lbmodule/manage lbmodule/policies lbmodule/stock lbmodule/config lbmodule/pool lbmodule/balance " +
		"lbmodule/canary lbmodule/overlay lbmodule/subset lbmodule/discovery healthcheck healthcheck/probe",
	"lbmodule/discovery": "lbmodule/config",
	"lbmodule/front":     "lbmodule/course lbmodule/policies lbmodule/stock lbmodule/config lbmodule/pool",
	"lbmodule/exchange":  "lbmodule/course lbmodule/pool",
	"lbmodule/mirror":    "lbmodule/pool",
	"lbmodule/history":   "lbmodule/pool",
	"lbmodule/simulate":  "lbmodule/course lbmodule/policies lbmodule/config lbmodule/pool lbmodule/subset",
	"lbmodule/manage":    "lbmodule/canary lbmodule/config lbmodule/overlay lbmodule/pool",
	"lbmodule/policies":  "lbmodule/config lbmodule/pool lbmodule/balance",
	"lbmodule/stock":     "lbmodule/config lbmodule/engine healthcheck healthcheck/probe",
	"lbmodule/config":    "lbmodule/course lbmodule/pool lbmodule/balance lbmodule/canary breaker healthcheck caddyapp",
	"lbmodule/course":    "lbmodule/pool",
	"lbmodule/pool":      "lbmodule/balance lbmodule/canary lbmodule/limit lbmodule/shadow breaker healthcheck",

	"lbmodule/balance":   "",
	"lbmodule/canary":    "lbmodule/balance",
	"lbmodule/limit":     "",
	"lbmodule/dashboard": "",
	"lbmodule/engine":    "lbmodule/fieldline lbmodule/socket",
	"lbmodule/socket":    "",
	"lbmodule/fieldline": "",
	"lbmodule/fleet":     "",
	"lbmodule/overlay":   "",
	"lbmodule/shadow":    "lbmodule/balance",
	"lbmodule/subset":    "lbmodule/balance",
	"breaker":            "",
	"healthcheck":        "",
	"healthcheck/probe":  "healthcheck",

	"ratelimit":            "caddyapp ratelimit/bucket ratelimit/redisstore",
	"ratelimit/bucket":     "",
	"ratelimit/redisstore": "",
	"caddyapp":             "",

	"bench/openloop":          "",                   // tests put loads on, too
	"lbmodule/dashboard/fake": "lbmodule/dashboard", // tests look at it, too
}

// cores are the packages that know no framework.
var cores = []string{
	"breaker",
	"command/api",
	"command/convert",
	"command/plain",
	"command/top",
	"healthcheck",
	"healthcheck/probe",
	"lbmodule/balance",
	"lbmodule/canary",
	"lbmodule/course",
	"lbmodule/dashboard",
	"lbmodule/engine",
	"lbmodule/fieldline",
	"lbmodule/history",
	"lbmodule/limit",
	"lbmodule/overlay",
	"lbmodule/pool",
	"lbmodule/shadow",
	"lbmodule/subset",
	"listener/h1",
	"ratelimit/bucket",
}

var frameworks = []string{"github.com/caddyserver/", "go.uber.org/zap", "github.com/prometheus/", "go.opentelemetry.io/"}

// pure are the cores that do not even know HTTP.
var pure = []string{
	"breaker",
	"command/convert",
	"healthcheck",
	"lbmodule/balance",
	"lbmodule/canary",
	"lbmodule/course",
	"lbmodule/fieldline",
	"lbmodule/history",
	"lbmodule/limit",
	"lbmodule/overlay",
	"lbmodule/pool",
	"lbmodule/shadow",
	"lbmodule/subset",
	"listener/h1",
	"ratelimit/bucket",
}

func TestLayering(t *testing.T) {
	// One line a package: its path, then what it imports.
	for _, line := range goList(t, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...") {
		fields := strings.Fields(line)
		name := short(fields[0])
		list, named := arrows[name]
		allowed := strings.Fields(list)
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

// forbidden says which packages a package must not import by itself, whatever the packages below it do.
var forbidden = map[string][]string{
	"lbmodule/course": {"context", "sync", "sync/atomic", "net/http"}, // it decides, and neither waits nor starts anything
	"lbmodule/exchange": {
		"github.com/caddyserver/caddy/v2", "github.com/caddyserver/caddy/v2/modules/caddyhttp", "go.uber.org/zap", "go.opentelemetry.io/otel/trace",
	},
}

// knowers are the packages that may know reverse_proxy.
var knowers = []string{
	"caddyfile", "lbmodule", "lbmodule/config", "lbmodule/discovery", "lbmodule/front", "lbmodule/policies", "lbmodule/service", "lbmodule/stock",
}

// TestImports holds what single packages must not know.
func TestImports(t *testing.T) {
	const reverseProxy = "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	for _, line := range goList(t, "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...") {
		fields := strings.Fields(line)
		name, imports := short(fields[0]), fields[1:]
		for _, path := range forbidden[name] {
			if slices.Contains(imports, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		if _, named := arrows[name]; named && slices.Contains(imports, reverseProxy) && !slices.Contains(knowers, name) {
			t.Errorf("%s knows reverse_proxy; only %q may", name, knowers)
		}
	}
}

// words are what only some files may write: what they stand for is known, or done, in one place.
var words = []struct {
	word *regexp.Regexp
	in   string // folder of the files that may not
	but  string // folder of those that may, "" for none
}{
	{regexp.MustCompile(`reverseproxy\.(HTTPTransport|DialInfo)\b`), ".", "lbmodule/stock"},
	{regexp.MustCompile(`http\.ResponseWriter`), "lbmodule/exchange", ""},
	{regexp.MustCompile(`time\.(Now|Since|Until|After|AfterFunc|NewTimer|NewTicker|Sleep|Tick)\(`), "lbmodule/course", ""},
}

// TestWords holds that nobody else knows them.
func TestWords(t *testing.T) {
	eachFile(t, func(path string, text []byte) {
		folder := filepath.ToSlash(filepath.Dir(path))
		for _, w := range words {
			if (w.in == "." || folder == w.in) && folder != w.but {
				if found := w.word.Find(text); found != nil {
					t.Errorf("%s: %s", path, found)
				}
			}
		}
	})
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

// TestFileSizes keeps files readable: one that outgrows this has two thoughts in it.
func TestFileSizes(t *testing.T) {
	const most = 500
	eachFile(t, func(path string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > most {
			t.Errorf("%s has %d lines, want at most %d", path, n, most)
		}
	})
}

// eachFile calls do for all Go files but tests.
func eachFile(t *testing.T, do func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil {
			do(path, text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
