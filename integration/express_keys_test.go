package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestExpressKeys: requests have the same keys for policies in the express lane as in Caddy, also after a prefix is gone.
func TestExpressKeys(t *testing.T) {
	t.Parallel()
	var backends []string
	for i := range 4 {
		b := startBackend(t)
		b.handle(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) })
		backends = append(backends, b.addr)
	}
	c := startExpress(t, "handle_path /api/* {\n load_balancer "+strings.Join(backends, " ")+" {\n  lb_policy uri_hash\n }\n}")
	served := func(path string, header ...string) string {
		t.Helper()
		r := c.request(http.MethodGet, nil, header...)
		r.URL.Opaque, r.Close = path, true
		status, body := c.ask(r)
		if status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, body)
		}
		return body
	}
	const paths = 20
	for i := range paths {
		path := fmt.Sprintf("/api/a!(%d)*'?q=%d", i, i)
		if lane, handlers := served(path), served(path, "Te", "trailers"); lane != handlers {
			t.Errorf("%s: backend %s by the express lane, %s by Caddy's handlers", path, lane, handlers)
		}
	}
	if got := c.lane(); got.Served != paths || got.HandedOver["te"] != paths {
		t.Errorf("%+v, want %d each", got, paths)
	}
}
