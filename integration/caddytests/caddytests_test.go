package caddytests

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const caddy = "github.com/caddyserver/caddy/v2"

// differences are the tests that show intended differences between load_balancer and reverse_proxy.
var differences = []string{
	"TestReverseProxyRequestBodyTimeout",        // a body that stops coming is answered 408
	"TestWeightedRoundRobinSelectionValidation", // negative weights are refused in other words, and all weights may be 0
}

// TestCaddysOwn: Caddy's integration tests have the same outcome in servers with seamless, also with load_balancer in the place of
// reverse_proxy.
func TestCaddysOwn(t *testing.T) {
	folder := copyTests(t)
	s := suite{t: t, folder: filepath.Join(folder, "caddytest/integration"), binary: filepath.Join(folder, "tests")}
	command(t, folder, "go", "test", "-race", "-mod=mod", "-c", "-o", s.binary, "./caddytest/integration")
	want, _ := s.run(nil)
	if n := count(want, "PASS"); n < 120 {
		t.Errorf("%d of Caddy's tests pass without seamless, want 120 or more: %v", n, want)
	}
	for _, side := range []struct {
		name        string
		environment []string
		differs     []string // tests
		served      bool     // by express lanes
	}{
		{"seamless", []string{"REWRITE_SEAMLESS=1"}, nil, false},
		{"load_balancer", []string{"REWRITE_SEAMLESS=1", "REWRITE_LOAD_BALANCER=1"}, differences, true},
	} {
		t.Run(side.name, func(t *testing.T) {
			s.t = t
			got, output := s.run(side.differs, side.environment...)
			for _, test := range slices.Sorted(maps.Keys(want)) {
				whole, _, _ := strings.Cut(test, "/")
				if got[test] != want[test] && !slices.Contains(side.differs, whole) {
					t.Errorf("%s: %s, want %s", test, got[test], want[test])
				}
			}
			lanes, served, handedOver := s.lanes()
			t.Logf("%d tests passed; %d had express lanes, which served %d requests and left %d to Caddy", count(got, "PASS"), lanes, served, handedOver)
			if lanes < 60 || handedOver == 0 || (served > 0) != side.served {
				t.Errorf("%d tests had express lanes, which served %d requests and left %d to Caddy", lanes, served, handedOver)
			}
			if t.Failed() {
				t.Log(output)
			}
		})
	}
}

// copyTests copies Caddy's tests into a module of their own which has this Ballast, and lets them rewrite configs.
func copyTests(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	original := strings.TrimSpace(command(t, ".", "go", "list", "-m", "-f", "{{.Dir}}", caddy))
	if err := os.CopyFS(filepath.Join(folder, "caddytest"), os.DirFS(filepath.Join(original, "caddytest"))); err != nil {
		t.Fatal(err)
	}
	writeModule(t, folder, original)
	// These compare configs, and serve nothing.
	if err := os.Remove(filepath.Join(folder, "caddytest/integration/caddyfile_adapt_test.go")); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		return edit(path, func(text string) string {
			return strings.ReplaceAll(text, `"`+caddy+`/caddytest"`, `"caddytests/caddytest"`)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	tester := filepath.Join(folder, "caddytest/caddytest.go")
	const change = "\n\trawConfig, configType = rewrite(rawConfig, configType)"
	for after, insert := range map[string]string{
		`_ "` + caddy + `/modules/standard"`:                                                 "\n\t_ \"github.com/ballastlb/ballast\"",
		"func (tc *Tester) initServer(rawConfig string, configType string) error {":          change + "\n\ttc.t.Cleanup(func() { note(tc) })",
		"func (tc *Tester) ensureConfigRunning(rawConfig string, configType string) error {": change,
	} {
		found := 0
		err := edit(tester, func(text string) string {
			found = strings.Count(text, after)
			return strings.Replace(text, after, after+insert, 1)
		})
		if err != nil || found != 1 {
			t.Fatalf("%q is %d times in %s: %v", after, found, tester, err)
		}
	}
	return folder
}

// writeModule makes the copy a module: it needs the very versions that this Ballast needs.
func writeModule(t *testing.T, folder, original string) {
	t.Helper()
	ballast := strings.TrimSpace(command(t, ".", "go", "list", "-m", "-f", "{{.Dir}}"))
	text, err := os.ReadFile(filepath.Join(ballast, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, needs, _ := strings.Cut(string(text), "\n") // behind its name
	needs = fmt.Sprintf("module caddytests\n%s\nrequire github.com/ballastlb/ballast v0.0.0\n\nreplace github.com/ballastlb/ballast => %s\n", needs, ballast)
	var sums []byte
	for _, module := range []string{ballast, original} {
		text, err := os.ReadFile(filepath.Join(module, "go.sum"))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, text...)
	}
	for name, text := range map[string][]byte{"go.mod": []byte(needs), "go.sum": sums} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(folder, "caddytest"), os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
}

// suite is Caddy's tests, compiled.
type suite struct {
	t      *testing.T
	folder string
	binary string
	record string // file in which the last run noted what the express lanes did
}

// run runs the tests but some and returns how each ended, and what they wrote. Some of them fail once in a while: those that fail have
// two more tries.
func (s *suite) run(without []string, environment ...string) (map[string]string, string) {
	s.t.Helper()
	folder := s.t.TempDir()
	s.record = filepath.Join(folder, "record")
	// Without programs, Caddy cannot make the system trust the authorities of these tests.
	environment = append(environment, "PATH="+folder, "HOME="+folder, "TMPDIR="+folder, "REWRITE_RECORD="+s.record)
	ended, output := s.try(environment, "-test.skip", oneOf(without))
	for range 2 {
		again := failed(ended)
		if len(again) == 0 {
			break
		}
		more, text := s.try(environment, "-test.run", oneOf(again))
		maps.Copy(ended, more)
		output += text
	}
	return ended, output
}

// oneOf is a pattern for these tests, which are none if there are none.
func oneOf(tests []string) string { return "^(" + strings.Join(tests, "|") + ")$" }

// try runs some of the tests.
func (s *suite) try(environment []string, which ...string) (map[string]string, string) {
	s.t.Helper()
	var out, log bytes.Buffer
	start := func(network *syscall.SysProcAttr, environment []string) (*exec.Cmd, error) {
		cmd := exec.CommandContext(s.t.Context(), s.binary, append(which, "-test.v", "-test.timeout", "5m")...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = s.folder, environment, network
		cmd.Stdout, cmd.Stderr = &out, &log
		return cmd, cmd.Start()
	}
	// The tests have fixed ports, which others may have as well.
	cmd, err := start(ownNetwork(), append(environment, "REWRITE_LOOPBACK=1"))
	if err != nil {
		s.t.Logf("no network of their own for the tests: %v", err)
		cmd, err = start(nil, environment)
	}
	if err == nil {
		err = cmd.Wait()
	}
	ended := make(map[string]string)
	for _, line := range verdict.FindAllStringSubmatch(out.String(), -1) {
		ended[line[2]] = line[1]
	}
	if len(ended) == 0 {
		s.t.Fatalf("no test ran: %v\n%s%s", err, out.String(), log.String())
	}
	return ended, out.String() + log.String()
}

// failed returns the tests, without their parts, that failed.
func failed(ended map[string]string) (tests []string) {
	for _, test := range slices.Sorted(maps.Keys(ended)) {
		if ended[test] == "FAIL" && !strings.Contains(test, "/") {
			tests = append(tests, test)
		}
	}
	return tests
}

// lanes tells of how many configs with express lanes there is a note, and what those did.
func (s *suite) lanes() (n int, served, handedOver uint64) {
	s.t.Helper()
	text, err := os.ReadFile(s.record)
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var test string
		var a, b uint64
		if _, err := fmt.Sscan(line, &test, &a, &b); err != nil {
			s.t.Fatal(err)
		}
		n, served, handedOver = n+1, served+a, handedOver+b
	}
	return n, served, handedOver
}

var verdict = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): (\S+)`)

func count(ended map[string]string, verdict string) (n int) {
	for _, v := range ended {
		if v == verdict {
			n++
		}
	}
	return n
}

func edit(path string, change func(string) string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(change(string(text))), 0o600)
}

func command(t *testing.T, folder, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = folder
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, problems.String())
	}
	return string(out)
}
