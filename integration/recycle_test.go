package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// keepingSource is a source of upstreams that keeps the requests that it is asked for, as one may that looks things up in the background.
type keepingSource struct {
	To string `json:"to"`
}

// keepingMatcher is a matcher that does so.
type keepingMatcher struct{}

// keptRequests are those requests.
var keptRequests struct {
	mu  sync.Mutex
	all []keptRequest
}

type keptRequest struct {
	r  *http.Request
	id string // that r had when it came
}

func init() {
	core.RegisterModule(keepingSource{})
	core.RegisterModule(keepingMatcher{})
}

func (keepingMatcher) CaddyModule() core.ModuleInfo {
	return core.ModuleInfo{ID: "http.matchers.keeping_test", New: func() core.Module { return new(keepingMatcher) }}
}

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler].
func (*keepingMatcher) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// MatchWithError implements [caddyhttp.RequestMatcherWithError].
func (*keepingMatcher) MatchWithError(r *http.Request) (bool, error) {
	keep(r)
	return true, nil
}

func keep(r *http.Request) {
	keptRequests.mu.Lock()
	defer keptRequests.mu.Unlock()
	keptRequests.all = append(keptRequests.all, keptRequest{r, r.Header.Get("Id")})
}

func (keepingSource) CaddyModule() core.ModuleInfo {
	return core.ModuleInfo{ID: "http.reverse_proxy.upstreams.keeping_test", New: func() core.Module { return new(keepingSource) }}
}

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler].
func (s *keepingSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.To) {
		return d.ArgErr()
	}
	return nil
}

// GetUpstreams implements [reverseproxy.UpstreamSource].
func (s *keepingSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	keep(r)
	return []*reverseproxy.Upstream{{Dial: s.To}}, nil
}

// fates are what can become of a request. The backend gives each its own answer, in which its Id is wherever there is place.
var fates = []string{"ok", "ok", "ok", "busy", "drops", "large", "trailers", "hints", "slow", "breaks", "HEAD", "POST", "PUT", "empty", "cut"}

// fated is a backend that does what requests say.
type fated struct {
	name  string
	begun *sync.Map // the Ids of requests that have had their first attempt
}

func (f *fated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, fate := r.Header.Get("Id"), r.Header.Get("Fate")
	h := w.Header()
	h.Set("X-Id", id)
	h.Set("X-Backend", f.name)
	_, again := f.begun.LoadOrStore(id, true)
	switch fate {
	case "busy":
		if !again {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	case "drops":
		if !again {
			panic(http.ErrAbortHandler)
		}
	case "large":
		size := len(id) * largeRepeats
		h.Set("Content-Length", strconv.Itoa(size))
		_, _ = io.WriteString(w, strings.Repeat(id, largeRepeats))
		return
	case "trailers":
		h.Set("Trailer", "X-Trailer")
		defer h.Set("X-Trailer", id)
		_ = http.NewResponseController(w).Flush()
	case "hints":
		h.Set("Link", "</"+id+">")
		w.WriteHeader(http.StatusEarlyHints)
		h.Del("Link")
	case "slow":
		takes(r.Context(), time.Duration(rand.IntN(20))*time.Millisecond)
	case "breaks":
		h.Set("Content-Length", strconv.Itoa(2*len(id)))
		_, _ = io.WriteString(w, id)
		panic(http.ErrAbortHandler)
	case "POST", "PUT":
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		return
	case "empty":
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_, _ = io.WriteString(w, id)
}

// largeRepeats is how often an Id is in the answer that the kernel moves.
const largeRepeats = 5_000

// recycled is the Caddy of this process.
type recycled struct {
	*testing.T
	sites  [2]string // with an access log, and without
	client *http.Client
	right  atomic.Int64 // answers that were whole
}

// ask makes a request, and reports an answer that is not its own. A client that cuts leaves at any time.
func (c *recycled) ask(site, route, fate, id string) {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	var hints atomic.Pointer[string]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		hints.Store(new(h.Get("Link")))
		return nil
	}})
	method, body := http.MethodGet, io.Reader(nil)
	switch fate {
	case "HEAD", "POST", "PUT":
		if method = fate; fate != "HEAD" {
			body = strings.NewReader(id)
		}
		if fate == "PUT" {
			body = io.MultiReader(body) // of unknown length
		}
	case "cut":
		timer := time.AfterFunc(time.Duration(rand.IntN(4000))*time.Microsecond, cancel)
		defer timer.Stop()
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+site+"/"+route+"/"+id, body)
	if err != nil {
		c.Error(err)
		return
	}
	r.Header.Set("Id", id)
	r.Header.Set("Fate", fate)
	res, err := c.client.Do(r)
	if err != nil {
		if fate != "cut" {
			c.Errorf("%s, %s: %v", route, fate, err)
		}
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	want := id
	switch fate {
	case "large":
		want = strings.Repeat(id, largeRepeats)
	case "HEAD", "empty":
		want = ""
	}
	whole := err == nil && res.StatusCode < 300
	switch {
	case len(res.Header["X-Id"]) > 1 || res.StatusCode < 300 && res.Header.Get("X-Id") != id:
		c.Errorf("%s, %s: %s got the header of %q", route, fate, id, res.Header["X-Id"])
	case res.StatusCode < 300 && !strings.HasPrefix(want, string(got)), whole && want != string(got):
		c.Errorf("%s, %s: %s got %.60q (%d bytes)", route, fate, id, got, len(got))
	case whole && fate == "trailers" && res.Trailer.Get("X-Trailer") != id:
		c.Errorf("%s, %s: %s got trailers %v", route, fate, id, res.Trailer)
	case fate == "breaks" && whole, fate != "breaks" && fate != "cut" && fate != "busy" && fate != "drops" && !whole:
		c.Errorf("%s, %s: %s got status %d, %v", route, fate, id, res.StatusCode, err)
	}
	if hint := hints.Load(); hint != nil && *hint != "</"+id+">" {
		c.Errorf("%s, %s: %s got hints %q", route, fate, id, *hint)
	}
	if whole {
		c.right.Add(1)
	}
}

// TestRecycledRequests: what requests are made of is used again for others, but never while somebody can still see it. Caddy runs in this
// process, so that the race detector sees it.
func TestRecycledRequests(t *testing.T) {
	// Not parallel: it counts goroutines and descriptors.
	begun := new(sync.Map)
	var plain, secure []string
	for n := range 3 {
		b := httptest.NewServer(&fated{fmt.Sprint("plain-", n), begun})
		t.Cleanup(b.Close)
		s := httptest.NewTLSServer(&fated{fmt.Sprint("tls-", n), begun})
		t.Cleanup(s.Close)
		plain = append(plain, fmt.Sprintf("backend %s {\n name plain-%d\n }", b.Listener.Addr(), n))
		secure = append(secure, fmt.Sprintf("backend https://%s {\n name tls-%d\n }", s.Listener.Addr(), n))
	}
	kept := httptest.NewServer(&fated{"kept", begun})
	t.Cleanup(kept.Close)
	const always = "breaker off\n lb_policy round_robin\n"
	routes := map[string]string{
		"plain":   strings.Join(plain, "\n"),
		"secure":  strings.Join(secure, "\n") + "\n transport http {\n tls_insecure_skip_verify\n }",
		"timed":   strings.Join(plain, "\n") + "\n drain_timeout 1m\n retry {\n try_timeout 1m\n }",
		"hedged":  strings.Join(plain, "\n") + "\n hedge 50% 50%",
		"routed":  strings.Join(plain, "\n") + "\n handle_response {\n header X-Routed yes\n copy_response\n }",
		"changed": strings.Join(plain, "\n") + "\n header_up X-Up {http.request.header.Id}\n header_down X-Down {http.reverse_proxy.header.X-Id}\n debug_header X-Chosen 127.0.0.0/8\n flush_interval 1ms",
		"matched": strings.Join(plain, "\n") + "\n lb_retries 1\n lb_retry_match {\n keeping_test\n expression `{http.reverse_proxy.status_code} == 599`\n }",
		"kept":    "dynamic keeping_test " + kept.Listener.Addr().String(),
	}
	var site strings.Builder
	for route, settings := range routes {
		fmt.Fprintf(&site, "handle /%s/* {\n load_balancer {\n name %s\n %s %s\n }\n }\n", route, route, always, settings)
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "access")
	c := &recycled{T: t, sites: [2]string{freeAddress(t), freeAddress(t)}, client: &http.Client{Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: 100,
	}}}
	admin := freeAddress(t)
	logs := "log {\n output file " + log + "\n format json\n }\n log_append lb_backend {http.load_balancer.backend}\n log_append lb_attempts {http.load_balancer.attempts}\n" +
		"log_append rp_id {http.reverse_proxy.header.X-Id}\n log_append rp_address {http.reverse_proxy.upstream.hostport}\n"
	config := "{\n admin " + admin + "\n persist_config off\n storage file_system " + dir + "\n log {\n level DEBUG\n output file " + filepath.Join(dir, "log") + "\n }\n}\n" +
		"http://" + c.sites[0] + " {\n " + logs + site.String() + "}\nhttp://" + c.sites[1] + " {\n " + site.String() + "}\n"
	text, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := core.Load(text, true); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := core.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for route := range routes { // the first connections, and what is made once
		c.ask(c.sites[0], route, "ok", "first-"+route)
	}
	c.client.CloseIdleConnections()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	const clients = 24
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for i := range longer(6) {
				for route := range routes {
					fate := fates[rand.IntN(len(fates))]
					if route == "matched" {
						fate = "ok" // it is tried again only after 599
					}
					c.ask(c.sites[rand.IntN(2)], route, fate, fmt.Sprintf("%s-%d-%d-%s", route, n, i, fate))
				}
			}
		})
	}
	wg.Wait()
	c.client.CloseIdleConnections()
	t.Logf("%d answers were whole", c.right.Load())
	keptRequests.mu.Lock()
	for _, k := range keptRequests.all {
		if id := k.r.Header.Get("Id"); id != k.id {
			t.Errorf("the request %q was kept, and is now %q", k.id, id)
			break
		}
	}
	keptRequests.mu.Unlock()
	process := &caddy{t: t, admin: admin}
	for route := range routes {
		waitFor(t, "no request to be in flight", func() bool {
			n := liveRequests(process, url.PathEscape(route))
			for _, b := range process.poolNamed(route).Backends {
				n += int(b.InFlight)
			}
			return n == 0
		})
	}
	// What is kept for other requests: connections and what sends bodies.
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines+200 })
	waitFor(t, "descriptors to be closed", func() bool { return openDescriptors(t) <= descriptors+2*7*32 })
	checkRecycledLog(t, log)
}

// openDescriptors is how many descriptors this process has.
func openDescriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0 // there is no such thing here
	} else if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// checkRecycledLog expects that each line of the access log tells of one request alone.
func checkRecycledLog(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range bytes.Lines(text) {
		var entry struct {
			Request struct {
				URI     string
				Headers map[string][]string
			}
			Status      int
			RespHeaders map[string][]string `json:"resp_headers"`
			LB          struct {
				Pool, Backend string
				Attempts      []struct{ Backend string }
			} `json:"load_balancer"`
			Backend string `json:"lb_backend"`
			ID      string `json:"rp_id"`
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		lines++
		id := http.Header(entry.Request.Headers).Get("Id")
		route, _, _ := strings.Cut(strings.TrimPrefix(entry.Request.URI, "/"), "/")
		answer := http.Header(entry.RespHeaders)
		if !strings.HasSuffix(entry.Request.URI, "/"+id) || entry.LB.Pool != route || entry.LB.Backend != entry.Backend ||
			entry.ID != "" && entry.ID != id || answer.Get("X-Id") != "" && answer.Get("X-Id") != id {
			t.Errorf("a line is not of one request: %s", line)
		}
		if b := answer.Get("X-Backend"); b != "" && b != "kept" && b != entry.Backend {
			t.Errorf("a line tells of another backend than %s: %s", b, line)
		}
	}
	if lines < 100 {
		t.Errorf("%d lines in the access log", lines)
	}
}
