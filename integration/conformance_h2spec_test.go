//go:build trust

package integration

import (
	"encoding/xml"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// h2spec runs the cases of h2spec, those of its strict mode among them.
func h2spec(secure, seamless bool) func(t *testing.T) (ours, stock results) {
	return func(t *testing.T) (ours, stock results) {
		path := program(t, "h2spec")
		return both(t, "", seamless, answersHello, func(t *testing.T, f *subject) results {
			host, port, err := net.SplitHostPort(f.address(secure))
			if err != nil {
				t.Fatal(err)
			}
			report := filepath.Join(t.TempDir(), "report.xml")
			args := []string{"--host", host, "--port", port, "--strict", "--junit-report", report}
			if secure {
				args = append(args, "--tls", "--insecure")
			}
			ended := runProgram(t, patience*2, "", path, args...)
			text, err := os.ReadFile(report)
			if err != nil {
				t.Fatalf("no report: %v; h2spec exited with %d: %s%s", err, ended.status, ended.stdout, ended.stderr)
			}
			cases, err := readJUnit(text)
			if err != nil {
				t.Fatal(err)
			}
			return cases
		})
	}
}

// answersHello answers in such a way that a client can pace it by its flow control.
func answersHello(w http.ResponseWriter, r *http.Request) {
	_, _ = discard(r.Body)
	fmt.Fprint(w, "hello, client")
}

// readJUnit reads a report. The cases are called by where in the specification they belong, and by what they are about.
func readJUnit(text []byte) (results, error) {
	type outcome struct {
		Content string `xml:",chardata"`
	}
	var report struct {
		Suites []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Package string   `xml:"package,attr"`
				About   string   `xml:"classname,attr"`
				Failure *outcome `xml:"failure"`
				Skipped *outcome `xml:"skipped"`
				Error   *outcome `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	found := results{}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			name := c.Package + ": " + c.About
			if _, twice := found[name]; twice {
				return nil, fmt.Errorf("two cases are called %q", name)
			}
			found[name] = ""
			for kind, o := range map[string]*outcome{"failed": c.Failure, "skipped": c.Skipped, "error": c.Error} {
				if o != nil {
					found[name] = kind + ": " + brief(o.Content)
				}
			}
		}
	}
	return found, nil
}
