//go:build trust

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runCaddys runs Caddy's integration tests that have a reverse_proxy in their config, as they are and with the word changed.
func runCaddys(t *testing.T) (ours, stock results) {
	c := caddys(t)
	stock, record := c.run(t, nil)
	ours, ourRecord := c.run(t, nil, "CONFORMANCE_LOAD_BALANCER=1")
	theirs, same := testsWithProxy(record), testsWithProxy(ourRecord)
	for _, r := range []results{ours, stock} {
		for test := range r {
			whole, _, _ := strings.Cut(test, "/")
			if !theirs[whole] && !same[whole] {
				delete(r, test)
			}
		}
	}
	return ours, stock
}

// runCaddysSeamless runs all of Caddy's integration tests, with seamless in the servers.
func runCaddysSeamless(t *testing.T) (ours, stock results) {
	c := caddys(t)
	stock, record := c.run(t, nil, "CONFORMANCE_SEAMLESS=1")
	checkLanes(t, record, 60, false)
	ours, record = c.run(t, nil, "CONFORMANCE_SEAMLESS=1", "CONFORMANCE_LOAD_BALANCER=1")
	checkLanes(t, record, 60, true)
	if n := passed(stock); n < 120 {
		t.Errorf("%d of Caddy's tests pass with seamless, want 120 or more", n)
	}
	return ours, stock
}

// checkLanes fails the test if fewer servers than that had express lanes, or if these did not serve what is for them and leave the rest.
func checkLanes(t *testing.T, record string, least int, serve bool) {
	t.Helper()
	n, served, handedOver := lanes(t, record)
	t.Logf("%d servers had express lanes, which served %d requests and left %d to Caddy", n, served, handedOver)
	if n < least || handedOver == 0 || (served > 0) != serve {
		t.Errorf("%d servers had express lanes, which served %d requests and left %d to Caddy; want %d or more, served: %v", n, served, handedOver, least, serve)
	}
}

// testsWithProxy are the tests, without their parts, whose config has a reverse_proxy.
func testsWithProxy(record string) map[string]bool {
	tests := map[string]bool{}
	for line := range strings.Lines(record) {
		if test, ok := strings.CutPrefix(strings.TrimSpace(line), "proxy "); ok {
			whole, _, _ := strings.Cut(test, "/")
			tests[whole] = true
		}
	}
	return tests
}

// caddys compiles a copy of Caddy's integration tests that has this Ballast and can rewrite configs.
func caddys(t *testing.T) *compiled {
	t.Helper()
	module := newModule(t)
	folder := filepath.Join(module, "caddytest")
	copyFolder(t, folder, filepath.Join(moduleFolder(t, caddyModule), "caddytest"))
	copyFolder(t, folder, "testdata/caddytest")
	// These compare configs, and serve nothing.
	if err := os.Remove(filepath.Join(folder, "integration/caddyfile_adapt_test.go")); err != nil {
		t.Fatal(err)
	}
	replaceInGo(t, folder, `"`+caddyModule+`/caddytest"`, `"conformance/caddytest"`)
	const change = "\n\trawConfig, configType = rewrite(tc, rawConfig, configType)"
	tester := filepath.Join(folder, "caddytest.go")
	for after, insert := range map[string]string{
		`_ "` + caddyModule + `/modules/standard"`:                                           "\n\t_ \"github.com/ballastlb/ballast\"",
		"func (tc *Tester) initServer(rawConfig string, configType string) error {":          change + "\n\ttc.t.Cleanup(func() { note(tc) })",
		"func (tc *Tester) ensureConfigRunning(rawConfig string, configType string) error {": change,
	} {
		replaceOnce(t, tester, after, after+insert)
	}
	return compile(t, module, "caddytest/integration")
}
