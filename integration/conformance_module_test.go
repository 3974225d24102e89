//go:build trust

package integration

import (
	"bytes"
	"cmp"
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

const caddyModule = "github.com/caddyserver/caddy/v2"

// newModule makes a folder with a module, conformance, that needs the very versions that this Ballast needs.
func newModule(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	ballast := moduleFolder(t, "github.com/ballastlb/ballast")
	text, err := os.ReadFile(filepath.Join(ballast, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	_, needs, _ := strings.Cut(string(text), "\n") // behind its name
	needs = fmt.Sprintf("module conformance\n%s\nrequire github.com/ballastlb/ballast v0.0.0\n\nreplace github.com/ballastlb/ballast => %s\n", needs, ballast)
	var sums []byte
	for _, module := range []string{ballast, moduleFolder(t, caddyModule)} {
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
	copyFolder(t, filepath.Join(folder, "loopback"), "testdata/loopback")
	return folder
}

func moduleFolder(t *testing.T, module string) string {
	t.Helper()
	return output(t, ".", "go", "list", "-m", "-f", "{{.Dir}}", module)
}

func copyFolder(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// replaceOnce replaces text that stands once in a file.
func replaceOnce(t *testing.T, path, text, with string) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(before), text); n != 1 {
		t.Fatalf("%q is %d times in %s", text, n, path)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(before), text, with, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replaceInGo replaces text in all Go files of a folder.
func replaceInGo(t *testing.T, folder, text, with string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		before, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(before), text, with)), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// compiled are the tests of a package, with the race detector.
type compiled struct {
	folder string // in which they run
	binary string
}

// compile compiles the tests of a package of such a module.
func compile(t *testing.T, module, path string) *compiled {
	t.Helper()
	c := &compiled{folder: filepath.Join(module, path), binary: filepath.Join(module, "tests")}
	output(t, module, "go", "test", "-race", "-mod=mod", "-c", "-o", c.binary, "./"+path)
	return c
}

// tests returns the names of the tests.
func (c *compiled) tests(t *testing.T) []string {
	t.Helper()
	return strings.Fields(output(t, c.folder, c.binary, "-test.list", "^Test"))
}

// run runs the tests but some. It returns how the cases ended, which are the tests without parts and the parts of the others, and what
// they left in their record. Tests that fail have two more tries: some of other people's do once in a while.
func (c *compiled) run(t *testing.T, without []string, environment ...string) (ended results, record string) {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, "record")
	// Without programs, Caddy cannot make the system trust the authorities of these tests.
	environment = append(environment, "PATH="+folder, "HOME="+folder, "TMPDIR="+folder, "CONFORMANCE_RECORD="+file)
	ended = c.try(t, environment, "-test.skip", oneOf(without))
	for _, test := range c.tests(t) {
		// One that ends the process has no outcome, nor have those after it.
		for range 2 {
			if slices.Contains(without, test) || passes(ended, test) {
				break
			}
			again := c.try(t, environment, "-test.run", oneOf([]string{test}))
			if _, hasEnded := again[test]; !hasEnded {
				again[test] = "ends the process"
			}
			maps.Copy(ended, again)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for test := range maps.Clone(ended) {
		for whole := test; strings.Contains(whole, "/"); {
			whole = whole[:strings.LastIndex(whole, "/")]
			delete(ended, whole)
		}
		if ended[test] == skipped {
			delete(ended, test)
		}
	}
	return ended, string(text)
}

// skipped is the outcome of a test that found that it cannot run here.
const skipped = "skipped"

func passes(ended results, test string) bool {
	wrong, hasEnded := ended[test]
	return hasEnded && (wrong == "" || wrong == skipped)
}

// oneOf is a pattern for these tests, which are none if there are none.
func oneOf(tests []string) string { return "^(" + strings.Join(tests, "|") + ")$" }

// try runs some of the tests.
func (c *compiled) try(t *testing.T, environment []string, which ...string) results {
	t.Helper()
	var out, log bytes.Buffer
	start := func(network *syscall.SysProcAttr, environment []string) (*exec.Cmd, error) {
		cmd := exec.CommandContext(t.Context(), c.binary, append(which, "-test.v", "-test.timeout", "5m")...)
		cmd.Dir, cmd.Env, cmd.SysProcAttr = c.folder, environment, network
		cmd.Stdout, cmd.Stderr = &out, &log
		return cmd, cmd.Start()
	}
	// Some have fixed ports, which others may have as well.
	cmd, err := start(ownNetwork(), append(environment, "CONFORMANCE_LOOPBACK=1"))
	if err != nil {
		t.Logf("no network of their own for the tests: %v", err)
		cmd, err = start(nil, environment)
	}
	if err == nil {
		err = cmd.Wait()
	}
	ended := outcomes(out.String())
	if err != nil && len(ended) == 0 {
		t.Logf("%q: %v\n%s%s", which, err, out.String(), log.String())
	}
	return ended
}

var (
	starts    = regexp.MustCompile(`^=== (?:RUN|NAME|CONT) +(\S+)`)
	complains = regexp.MustCompile(`^ +\S+_test\.go:\d+: (.*)`)
	verdict   = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): (\S+)`)
)

// outcomes reads what tests have written: how each ended, and, if it failed, the first that it said.
func outcomes(text string) results {
	ended, said := results{}, map[string]string{}
	of := ""
	for line := range strings.Lines(text) {
		if m := starts.FindStringSubmatch(line); m != nil {
			of = m[1]
		} else if m := complains.FindStringSubmatch(line); m != nil {
			said[of] = cmp.Or(said[of], fmt.Sprintf("%.200s", m[1]))
		} else if m := verdict.FindStringSubmatch(line); m != nil {
			ended[m[2]] = map[string]string{"PASS": "", "FAIL": cmp.Or(said[m[2]], "fails"), "SKIP": skipped}[m[1]]
		}
	}
	return ended
}

// lanes says of how many servers with express lanes there is a note, and what those did.
func lanes(t *testing.T, record string) (n int, served, handedOver uint64) {
	t.Helper()
	for line := range strings.Lines(record) {
		var test string
		var a, b uint64
		if found, _ := fmt.Sscanf(line, "lane %s %d %d", &test, &a, &b); found == 3 {
			n, served, handedOver = n+1, served+a, handedOver+b
		}
	}
	return n, served, handedOver
}

// output runs a command and returns what it prints.
func output(t *testing.T, folder, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = folder
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, problems.String())
	}
	return strings.TrimSpace(string(out))
}
