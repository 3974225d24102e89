package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/spf13/cobra"
)

// reply is what the fake API says to a request. Without a status it is 200.
type reply struct {
	status int
	body   string
}

// fakeAPI is an HTTP server that answers as the admin API does.
type fakeAPI struct {
	t       *testing.T
	server  *httptest.Server
	address string

	mu      sync.Mutex
	replies map[string][]reply // by method and URI; the last one stays
	got     []string           // changes: method, URI, If-Match, body
	origins []string
}

// The time of the fake API, and times in its states.
const (
	serverTime = "Fri, 02 Jan 2026 15:04:05 GMT"
	soon       = "2026-01-02T15:09:04Z"
)

func startAPI(t *testing.T, replies map[string]reply) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t, replies: map[string][]reply{}}
	for request, r := range replies {
		f.replies[request] = []reply{r}
	}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	f.address = f.server.Listener.Addr().String()
	return f
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	request := r.Method + " " + r.RequestURI
	f.mu.Lock()
	defer f.mu.Unlock()
	f.origins = append(f.origins, r.Header.Get("Origin"))
	if r.Method != http.MethodGet {
		line := request
		if match := r.Header.Get("If-Match"); match != "" {
			line += " If-Match: " + match
		}
		if len(body) > 0 {
			line += " " + string(body)
			if got := r.Header.Get("Content-Type"); got != "application/json" {
				f.t.Errorf("%s has content type %s", request, got)
			}
		}
		f.got = append(f.got, line)
	}
	replies := f.replies[request]
	if len(replies) == 0 {
		replies = []reply{{http.StatusNotFound, fmt.Sprintf(`{"error":"%s: not found"}`, r.RequestURI)}}
	}
	if len(replies) > 1 {
		f.replies[request] = replies[1:]
	}
	w.Header().Set("Date", serverTime)
	w.Header().Set("ETag", `"`+r.URL.Path[len(r.URL.Path)-1:]+`"`)
	if replies[0].status != 0 {
		w.WriteHeader(replies[0].status)
	}
	_, _ = io.WriteString(w, replies[0].body)
}

// changes are the requests that were no GET.
func (f *fakeAPI) changes() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.got, "\n")
}

// result is what a command did.
type result struct {
	out, err string
	code     int
}

// run runs a command against the fake API, without a terminal.
func (f *fakeAPI) run(args ...string) result {
	return runCommand(f.t, console{in: strings.NewReader("")}, append(args, "--address", f.address)...)
}

// answer runs a command at a terminal, with an answer to its question.
func (f *fakeAPI) answer(answer string, args ...string) result {
	return runCommand(f.t, console{in: strings.NewReader(answer), asks: true}, append(args, "--address", f.address)...)
}

func runCommand(t *testing.T, c console, args ...string) result {
	t.Helper()
	var out, errors bytes.Buffer
	c.out, c.err = &out, &errors
	code := execute(t.Context(), t, c, args...)
	return result{out.String(), errors.String(), code}
}

// execute runs a command and returns its exit code.
func execute(ctx context.Context, t *testing.T, c console, args ...string) int {
	t.Helper()
	t.Setenv("USER", "eve")
	c.args = args
	lb := &cobra.Command{Use: "lb"}
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	root.AddCommand(lb)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetArgs(append([]string{"lb"}, args...))
	var o outcome
	addCommands(lb, c, &o)
	if err := root.ExecuteContext(ctx); err != nil && o.code == 0 {
		o.code = exitFailed // refused by cobra
	}
	return o.code
}

// owner is what changes of the tests are signed with.
func owner(t *testing.T) string {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return "eve@" + host
}

// lines compares lines, each without the spaces at its end.
func lines(t *testing.T, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

const (
	backendA = `{"address":"10.0.0.1:8080","name":"10.0.0.1:8080","weight":1,"effective_weight":1,"state":"ready","health":"up","breaker":"closed","usable":true,` +
		`"since":"2026-01-02T14:04:05Z","in_flight":4,"requests":100,"failures":2,"latency_ms":{"p50":4.2,"p99":31.7},` +
		`"last_check":{"time":"2026-01-02T15:04:04Z","ok":true,"ms":1.3,"code":200},"source":"config"}`
	backendSlow = `{"address":"10.0.0.3:8080","name":"slow","weight":1,"effective_weight":1,"state":"ready","health":"up","breaker":"closed","usable":true,` +
		`"avoided":"its answers take 400 ms, the others' 0.5 ms; tried again in 0.8 s","since":"2026-01-02T15:04:00Z","in_flight":0,"requests":3,"failures":0,"source":"config"}`
	backendB = `{"address":"[::1]:8080","name":"b","weight":3,"effective_weight":0,"max_requests":9,"state":"drain","health":"down","breaker":"open","usable":false,` +
		`"reason":"draining","since":"2026-01-02T15:04:00Z","until":"` + soon + `","in_flight":1,"requests":7,"failures":7,"source":"api",` +
		`"edits":[{"field":"state","value":"drain","owner":"eve@ops","reason":"evil\u001b[31m","until":"` + soon + `"}]}`
	poolWeb    = `{"name":"web","policy":"lb_least_conn","state":"degraded","usable":1,"panic":false,"queue":2,"retry_budget":98.5,"requests":480,"codes":{"2xx":57,"5xx":423},"refused":{"queue_full":400,"no_backend":21,"limit":0},"bytes_in":1500,"bytes_out":82854982,"problems":[{"severity":"bad","what":"refuses 47 requests/s","why":"queue full"},{"severity":"warn","backend":"b","what":"is slow","why":"p95 841 ms, 65 times that of its peers"}],"backends":[` + backendA + `,` + backendB + `]}`
	poolShadow = `{"name":"shadow","policy":"lb_random","state":"ok","usable":1,"panic":false,"queue":0,"retry_budget":10,"backends":[],` +
		`"shadow":{"policy":"lb_least_conn","agreed":330,"differed":670,"full":0,"dropped":0,"agreement":0.33,"fairness":0.9,"expected_ms":{"p50":15.3,"p99":90},"took_ms":{"p50":20,"p99":114}}}`
	poolSlow = `{"name":"slow","policy":"lb_peak_ewma","state":"ok","usable":1,"panic":false,"queue":0,"retry_budget":10,"requests":3,"codes":{"5xx":3},"problems":[{"severity":"bad","what":"answers 100 % of its requests with 5xx","why":"3 errors/s"}],"backends":[` + backendSlow + `]}`
	poolAB   = `{"name":"a/b","policy":"lb_hash","state":"down","usable":0,"panic":false,"queue":0,"retry_budget":10,"warnings":["all weights are 0"],"backends":[],"discovery":[{"source":"file:/etc/a.json","ok":false,"since":"2026-01-02T15:04:00Z","error":"names no target","targets":7}],"subset":{"size":2,"of":9,"chosen":2,"further":3}}`
	pools    = "GET /load_balancer/pools"
	pool     = pools + "/web"
	backends = "/load_balancer/pools/web/backends"
)

// onePool is an API with one pool.
func onePool(t *testing.T, more map[string]reply) *fakeAPI {
	t.Helper()
	replies := map[string]reply{pools: {body: "[" + poolWeb + "]"}, pool: {body: poolWeb}}
	for request, r := range more {
		replies[request] = r
	}
	return startAPI(t, replies)
}
