package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// pages returns the user documentation: README.md, what is in docs/ and what else stands at the root, by their paths in the tree.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages in docs/: %v", err)
	}
	found := map[string]string{}
	for _, file := range append(files, "../README.md", "../CHANGELOG.md", "../CONTRIBUTING.md") {
		found[strings.TrimPrefix(filepath.ToSlash(file), "../")] = read(t, file)
	}
	return found
}

// snippet is a block of code on a page.
type snippet struct {
	page, language, code string
	line                 int // of its beginning
}

// snippets returns the blocks of code of all pages, and the pages without them.
func snippets(t *testing.T) (found []snippet, texts map[string]string) {
	t.Helper()
	all := pages(t)
	texts = map[string]string{}
	for _, page := range slices.Sorted(maps.Keys(all)) {
		var text strings.Builder
		var open *snippet
		indent, line := "", 0
		for content := range strings.Lines(all[page]) {
			line++
			before, language, fence := strings.Cut(content, "```")
			fence = fence && strings.TrimSpace(before) == ""
			switch {
			case fence && open == nil:
				open = &snippet{page: page, language: strings.TrimSpace(language), line: line}
				indent = before
			case fence:
				found = append(found, *open)
				open = nil
			case open != nil:
				open.code += strings.TrimPrefix(content, indent)
			default:
				text.WriteString(content)
			}
		}
		if open != nil {
			t.Errorf("%s:%d: the block does not end", page, open.line)
		}
		texts[page] = text.String()
	}
	return found, texts
}

// TestDocsSnippets does with each block of code on the pages what its reader would, according to the language.
func TestDocsSnippets(t *testing.T) {
	checks := map[string]func(*testing.T, snippet){
		"caddyfile": checkCaddyfile, "sh": checkCommands, "console": checkSession, "promql": checkQuery, "json": checkJSON,
		"haproxy": checkHAProxy, "nginx": checkNginx, "yaml": checkTraefik,
	}
	t.Setenv("STICKY_SECRET", "s3cret") // one of them refuses to sign with nothing
	all, _ := snippets(t)
	for _, s := range all {
		t.Run(fmt.Sprintf("%s:%d", s.page, s.line), func(t *testing.T) {
			if check := checks[s.language]; check != nil {
				check(t, s)
			} else {
				t.Errorf("no test knows what to do with a block in %q", s.language)
			}
		})
	}
}

// checkTraefik reads a file of Traefik's file provider: each service and middleware that it names is to be there. There is no Traefik here
// to ask.
func checkTraefik(t *testing.T, s snippet) {
	var file struct {
		HTTP struct {
			Routers map[string]struct {
				Service     string
				Middlewares []string
			}
			Middlewares map[string]any
			Services    map[string]map[string]map[string]any
		}
	}
	if err := yaml.Unmarshal([]byte(s.code), &file); err != nil {
		t.Fatal(err)
	}
	services := file.HTTP.Services
	if len(services) == 0 {
		t.Error("there are no services")
	}
	for name, r := range file.HTTP.Routers {
		if services[r.Service] == nil {
			t.Errorf("router %s: service %s is not there", name, r.Service)
		}
		for _, m := range r.Middlewares {
			if file.HTTP.Middlewares[m] == nil {
				t.Errorf("router %s: middleware %s is not there", name, m)
			}
		}
	}
	for name, kinds := range services {
		for kind, settings := range kinds {
			for _, field := range []string{"service", "fallback"} {
				if other, ok := settings[field].(string); ok && services[other] == nil {
					t.Errorf("service %s: %s: service %s is not there", name, kind, other)
				}
			}
		}
	}
}

func checkCaddyfile(t *testing.T, s snippet) {
	if out, err := runCaddy(t, s.code, "validate"); err != nil {
		t.Errorf("%v\n%s\n%s", err, s.code, out)
	}
	out, err := runCaddy(t, s.code, "adapt")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(out, `"level":"warn"`) {
		t.Errorf("adapt warns: %s", out)
	}
}

// checkCommands runs commands. What would run this very test, or takes minutes, is run by .ci/run instead, and checked
// to be there. Tests that are named are listed, and not run.
func checkCommands(t *testing.T, s snippet) {
	scripts := read(t, "../.ci/run")
	for line := range strings.Lines(s.code) {
		command, _, _ := strings.Cut(line, "#")
		command = strings.TrimSpace(command)
		if tests, isTest := strings.CutPrefix(command, "go test "); isTest {
			listed := inTree(t, "sh", "-c", "go test "+strings.Replace(" "+tests+" ", " -run ", " -list ", 1))
			if !strings.Contains(tests+" ", " -run ") || !regexp.MustCompile(`(?m)^Test`).MatchString(listed) {
				t.Errorf("%s: there is no such test", command)
			}
			continue
		}
		switch command {
		case "":
		case "make run", "make load":
			// TestDocsDemo
		case "sha256sum --check --ignore-missing SHA256SUMS", "apt install ./ballast_0.1.0_amd64.deb":
			// TestRelease
		case "make release VERSION=v0.1.0", "make image VERSION=v0.1.0":
			// TestRelease has the same made for one platform.
			if out := inTree(t, "make", append([]string{"--dry-run"}, strings.Fields(command)[1:]...)...); !strings.Contains(out, "go run ./deploy/release ") {
				t.Errorf("%s does\n%s", command, out)
			}
		case "make test", "make check", "./xcaddy.sh":
			if !strings.Contains(scripts, "\n"+command+"\n") {
				t.Errorf("%s: not in .ci/run", command)
			}
		case "make bench", "make profile", "make fuzz", "make conformance", "make faults", "make soak", "make long":
			inTree(t, "make", "--dry-run", strings.TrimPrefix(command, "make "))
		case "make help", "make build", "bin/caddy list-modules",
			"bin/caddy validate --config Caddyfile.example --adapter caddyfile":
			words := strings.Fields(command)
			out := inTree(t, words[0], words[1:]...)
			if command == "bin/caddy list-modules" {
				for _, module := range []string{"http.handlers.load_balancer", "http.handlers.ip_rate_limit", "lb_round_robin", "lb_weighted_round_robin", "lb_least_conn", "lb_peak_ewma", "lb_random", "lb_p2c", "lb_hash", "lb_sticky", "lb_first"} {
					if !strings.Contains(out, module) {
						t.Errorf("%s does not show %s", command, module)
					}
				}
			}
		default:
			t.Errorf("%s: this test does not know the command", command)
		}
	}
}

// checkSession does what the session shows, at a pool web of backends a and b, and compares what is said but for times
// and addresses.
func checkSession(t *testing.T, s snippet) {
	backends, _ := startBackends(t, 2)
	c := startCaddy(t, fmt.Sprintf("load_balancer {\n\tname web\n\tbackend %s {\n\t\tname a\n\t}\n\tbackend %s {\n\t\tname b\n\t}\n}", backends[0].addr, backends[1].addr))
	varying := regexp.MustCompile(`\b(\d+[dhm])?\d+[hms]\b|\b\d{4}-\d\d-\d\dT[\d:.]+Z|\b[a-z]+@\S+\b|\b0\.\d/`)
	alike := func(text string) string {
		text = strings.NewReplacer(backends[0].addr, "10.0.0.1:8080", backends[1].addr, "10.0.0.2:8080").Replace(text)
		return varying.ReplaceAllString(words(text), "?")
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(s.code, "$ "), "\n$ ") {
		command, want, _ := strings.Cut(step, "\n")
		cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(command, "localhost:2019", c.admin))
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(caddyBinary)+":"+os.Getenv("PATH"), "CADDY_ADMIN="+c.admin, "USER=eve",
			"XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
		got, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(alike(string(got))) != strings.TrimSpace(alike(want)) {
			t.Errorf("%s: %v\n%s\nwant\n%s", command, err, alike(string(got)), alike(want))
		}
	}
}

// checkQuery checks what Prometheus can be asked. That there are such metrics is checked by TestDeployedNames.
func checkQuery(t *testing.T, s snippet) {
	rules := fmt.Sprintf("groups:\n- name: docs\n  rules:\n  - record: query:1\n    expr: %q\n", strings.TrimSpace(s.code))
	promtool(t, "", "check", "rules", inFile(t, "rules.yml", rules))
}

// checkJSON has Caddy validate a config, simulates a scenario, and compares what else there is with what an access log says.
func checkJSON(t *testing.T, s snippet) {
	var config struct{ Apps, Arrivals map[string]any }
	if err := json.Unmarshal([]byte(s.code), &config); err != nil {
		t.Fatal(err)
	}
	if config.Apps != nil {
		inTree(t, caddyBinary, "validate", "--config", inFile(t, "caddy.json", s.code))
		return
	}
	if config.Arrivals != nil {
		inTree(t, caddyBinary, "lb", "simulate", inFile(t, "scenario.json", s.code))
		return
	}
	good, gone := startBackend(t), freeAddress(t)
	c := startCaddy(t, onLog+fmt.Sprintf("load_balancer {\n\tname web\n\tlb_policy first\n\tbackend %s {\n\t\tname a\n\t}\n\tbackend %s {\n\t\tname b\n\t}\n}", gone, good.addr))
	c.get("/")
	c.accessLog("/", 1)
	logged := regexp.MustCompile(`"load_balancer":(\{.*?\]\})`).FindStringSubmatch(c.log.String())
	if logged == nil {
		t.Fatal("nothing in the access log")
	}
	alike := func(text string) string {
		text = strings.NewReplacer(gone, "10.0.0.1:8080", "lb_first", "lb_peak_ewma").Replace(text)
		return regexp.MustCompile(`"(ms|queue_ms)":[\d.e-]+`).ReplaceAllString(strings.TrimSpace(text), `"$1":0`)
	}
	if alike(logged[1]) != alike(s.code) {
		t.Errorf("the access log says\n%s\nnot\n%s", logged[1], s.code)
	}
}

func inFile(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// inTree runs a command at the root of the tree and returns what it printed.
func inTree(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
