//go:build trust

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// apiOnly are the tests of httputil that say nothing of a proxy with a config.
var apiOnly = []string{
	"TestReverseProxy_AllocatedHeader",                          // requests without a header map, which no server makes
	"TestReverseProxyGetPutBuffer",                              // buffers come from a pool of the caller
	"TestModifyResponseClosesBody",                              // what follows an error of a hook
	"TestReverseProxyRewriteReplacesOut",                        // a hook replaces the request as a whole
	"TestSingleJoinSlash",                                       // an unexported function; targets of Caddy have no path
	"TestJoinURLPath",                                           // the same
	"TestReverseProxyQueryParameterSmugglingDirectorParsesForm", // hooks can have a query cleaned, by reading it
	"TestReverseProxyQueryParameterSmugglingRewrite",            // the same, by default with that hook
}

// runHTTPUtils runs the tests of ReverseProxy in Go's library. A handler of Caddy takes its place, configured to do what the hooks of a
// test do; where a test puts a proxy into a server as it is, a Caddy does.
func runHTTPUtils(t *testing.T) (ours, stock results) {
	c := httpUtils(t)
	ours, _ = c.run(t, apiOnly, "CONFORMANCE_HANDLER=load_balancer")
	stock, _ = c.run(t, apiOnly, "CONFORMANCE_HANDLER=reverse_proxy")
	return ours, stock
}

// runHTTPUtilsSeamless is the same with seamless in the servers.
func runHTTPUtilsSeamless(t *testing.T) (ours, stock results) {
	c := httpUtils(t)
	ours, record := c.run(t, apiOnly, "CONFORMANCE_HANDLER=load_balancer", "CONFORMANCE_SEAMLESS=1")
	checkLanes(t, record, 20, true)
	stock, record = c.run(t, apiOnly, "CONFORMANCE_HANDLER=reverse_proxy", "CONFORMANCE_SEAMLESS=1")
	checkLanes(t, record, 20, false)
	return ours, stock
}

// httpUtils compiles a copy of Go's tests that has Caddy with this Ballast.
func httpUtils(t *testing.T) *compiled {
	t.Helper()
	module := newModule(t)
	folder := filepath.Join(module, "httputil")
	copyFolder(t, folder, "testdata/httputil")
	text, err := os.ReadFile(filepath.Join(output(t, ".", "go", "env", "GOROOT"), "src/net/http/httputil/reverseproxy_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(folder, "reverseproxy_test.go")
	if err := os.WriteFile(tests, text, 0o600); err != nil {
		t.Fatal(err)
	}
	replaceOnce(t, tests, `"net/http/internal/ascii"`, `ascii "strings"`) // which has EqualFold, too
	replaceInGo(t, tests, "httptest.NewServer(", "newServer(")
	// What this hook does has a word in a config, which no other of these tests need.
	replaceOnce(t, tests, `rproxy.ModifyResponse = func(resp *http.Response) error {
		if resp.Header.Get("X-Hit-Mod") != "true" {
			return fmt.Errorf("tried to by-pass proxy")
		}
		return nil
	}`, `rproxy.Settings = map[string]any{"handle_response": []any{map[string]any{
		"match":  map[string]any{"headers": map[string][]string{"X-Hit-Mod": {"false"}}},
		"routes": []any{map[string]any{"handle": []any{map[string]any{"handler": "static_response", "status_code": 502}}}},
	}}}`)
	// Caddy believes what a client says of others only if it is told to.
	const prior = `t.Errorf("X-Forwarded-For didn't contain prior data")
		}
		w.WriteHeader(backendStatus)
		w.Write([]byte(backendResponse))
	}))
	defer backend.Close()
	backendURL, err := url.Parse(backend.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxyHandler := NewSingleHostReverseProxy(backendURL)
`
	replaceOnce(t, tests, prior, prior+"	proxyHandler.Settings = map[string]any{\"trusted_proxies\": []string{\"127.0.0.0/8\", \"::1/128\"}}\n")
	// A config is made when the server starts, and not when the first request comes.
	const start = "	frontend := newServer(proxyHandler)\n	defer frontend.Close()\n\n"
	const director = "	oldDirector := proxyHandler.Director\n	proxyHandler.Director = func(r *http.Request) {\n" +
		"		r.Header[\"X-Forwarded-For\"] = nil\n		oldDirector(r)\n	}\n\n"
	replaceOnce(t, tests, start+director, director+start)
	// What is around this proxy does nothing.
	replaceOnce(t, tests, `newServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
				rproxy.ServeHTTP(rw, req)
			}))`, "newServer(rproxy)")
	// A message on a tunnel may come in parts.
	replaceOnce(t, tests, "b := make([]byte, len(msg))\n		if _, err := conn.Read(b)", "b := make([]byte, len(msg))\n		if _, err := io.ReadFull(conn, b)")
	c := compile(t, module, "httputil")
	for _, test := range apiOnly {
		if !slices.Contains(c.tests(t), test) {
			t.Errorf("%s is left out, but is no test", test)
		}
	}
	return c
}
