//go:build trust

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// curlCase is what curl is asked to do, and what is to come of it.
type curlCase struct {
	name string
	over string   // the protocols that it is done over, of curlProtocols
	args []string // BASE is where the site's paths begin, LARGE a file of 3 MiB, SOME one with the first 1000 bytes of the content

	stdin    string
	exit     int               // curl's exit status
	told     string            // of each transfer: status, version of HTTP, new connections, Content-Length; V is the version, empty for whatever it be
	out      string            // what it prints, or writes to SOME
	check    func(string) bool // instead of out
	answers  []int             // the statuses in the access log; nil for one 200
	unlogged bool              // the request does not get so far
}

// curlProtocols are what curl speaks. Debian's has no HTTP/3.
var curlProtocols = map[string]struct {
	secure  bool
	version string
	args    []string
}{
	"1.0": {false, "1", []string{"--http1.0"}},
	"1.1": {false, "1.1", []string{"--http1.1"}},
	"tls": {true, "1.1", []string{"--http1.1", "--insecure"}},
	"h2":  {true, "2", []string{"--http2", "--insecure"}},
	"h2c": {false, "2", []string{"--http2-prior-knowledge"}},
}

const (
	since11 = "1.1 tls h2 h2c"
	every   = "1.0 " + since11
	only1   = "1.1 tls"
	only2   = "h2 h2c"
	again   = "1.1 tls h2" // curl 7.88 that begins with HTTP/2 on a plain connection cannot use it for a second request, whatever the server
)

// curl runs curlCases.
func curl(seamless bool) func(t *testing.T) (ours, stock results) {
	return func(t *testing.T) (ours, stock results) {
		path := program(t, "curl")
		large := inFile(t, "large", filled(3<<20))
		return both(t, "@packed path */packed\nencode @packed zstd gzip", seamless, answersCurl, func(t *testing.T, s *subject) results {
			all := results{}
			for i, c := range curlCases {
				for protocol := range strings.FieldsSeq(c.over) {
					name := c.name + ", " + protocol
					if _, twice := all[name]; twice {
						t.Fatalf("two cases are called %q", name)
					}
					all[name] = c.run(t, s, path, large, protocol, fmt.Sprintf("/%d-%s/", i, protocol))
				}
			}
			if seamless {
				s.expectExpress(t)
			}
			return all
		})
	}
}

// run runs curl once, with paths that begin so, and tells what is wrong.
func (c *curlCase) run(t *testing.T, s *subject, curl, large, protocol, prefix string) string {
	t.Helper()
	p := curlProtocols[protocol]
	some := filepath.Join(t.TempDir(), "some")
	if err := os.WriteFile(some, []byte(filled(1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("BASE", strings.TrimSuffix(s.at(p.secure, prefix), "/"), "LARGE", large, "SOME", some)
	args := append([]string{"--silent", "--show-error", "--write-out", "%{stderr}%{http_code} %{http_version} %{num_connects} %header{content-length}\n"}, p.args...)
	toFile := false
	for _, arg := range c.args {
		args = append(args, fill.Replace(arg))
		toFile = toFile || arg == "SOME"
	}
	ended := runProgram(t, 20*time.Second, c.stdin, curl, args...)
	var wrong []string
	say := func(format string, values ...any) { wrong = append(wrong, fmt.Sprintf(format, values...)) }
	out, told := ended.stdout, ""
	if toFile {
		out = read(t, some)
	}
	for line := range strings.Lines(ended.stderr) {
		if !strings.HasPrefix(line, "curl: ") {
			told += strings.TrimSpace(line) + "; "
		}
	}
	told = strings.TrimSuffix(told, "; ")
	if ended.status != c.exit {
		say("curl exits with %d, want %d: %s", ended.status, c.exit, brief(ended.stderr))
	}
	if want := strings.ReplaceAll(c.told, "V", p.version); want != "" && told != want {
		say("curl tells %q, want %q", told, want)
	}
	if c.check == nil && out != strings.ReplaceAll(c.out, "PREFIX", prefix) || c.check != nil && !c.check(out) {
		say("curl gives %d bytes, %q, want %d, %q", len(out), brief(out), len(c.out), brief(c.out))
	}
	if c.unlogged {
		if seen := s.backend.take(prefix); seen != 0 {
			say("%d requests reached the backend", seen)
		}
		return strings.Join(wrong, "; ")
	}
	answers := c.answers
	if answers == nil {
		answers = []int{200}
	}
	if disagree := s.agree(prefix, len(answers), 0, func(status int) bool { return slices.Contains(answers, status) }); disagree != "" {
		wrong = append(wrong, disagree)
	}
	return strings.Join(wrong, "; ")
}

// contains is a check for outputs that have all of these parts.
func contains(parts ...string) func(string) bool {
	return func(out string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(strings.ToLower(out), strings.ToLower(part)) })
	}
}
