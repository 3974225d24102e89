package lbmodule

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"

	_ "github.com/ballastlb/ballast/lbmodule/admin"

	_ "github.com/caddyserver/caddy/v2/modules/caddyevents"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	_ "github.com/caddyserver/caddy/v2/modules/logging"
)

// harness is a Caddy config under test: handlers are provisioned in it one by one, as the http app does.
type harness struct {
	t      testing.TB
	ctx    caddy.Context
	cancel func()
	log    string // file
}

func newConfig(t testing.TB) *harness {
	t.Helper()
	return newConfigIn(t, newDir(t))
}

// newDir is a directory for a config. That of t.TempDir has the test's name in it, and Caddy would see placeholders there.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ballast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newConfigIn is newConfig with its storage and log in that directory.
func newConfigIn(t testing.TB, dir string) *harness {
	t.Helper()
	log := filepath.Join(dir, "log")
	writer, err := json.Marshal(map[string]string{"output": "file", "filename": log})
	if err != nil {
		t.Fatal(err)
	}
	return provision(t, dir, log, map[string]*caddy.CustomLog{
		"test": {BaseLog: caddy.BaseLog{WriterRaw: writer, EncoderRaw: json.RawMessage(`{"format": "json"}`)}},
	})
}

// newQuietConfig is newConfig without a log, for what runs in virtual time: the writer of a file has a goroutine.
func newQuietConfig(t testing.TB) *harness {
	t.Helper()
	return provision(t, newDir(t), "", map[string]*caddy.CustomLog{})
}

// provision makes a config with its storage in that directory, and those logs. The default log discards: Caddy writes to it once more when
// the next config replaces it, when the directory of a file would be gone and be made again.
func provision(t testing.TB, dir, log string, logs map[string]*caddy.CustomLog) *harness {
	t.Helper()
	c := &harness{t: t, log: log}
	logs["default"] = &caddy.CustomLog{BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}}
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": dir})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := caddy.ProvisionContext(&caddy.Config{
		StorageRaw: storage,
		Logging:    &caddy.Logging{Logs: logs},
	})
	if err != nil {
		t.Fatal(err)
	}
	var cancel func()
	c.ctx, cancel = caddy.NewContext(parent)
	c.cancel = func() { cancel() }
	t.Cleanup(c.cancel)
	return c
}

// load provisions a load balancer.
func (c *harness) load(settings string) (*Handler, error) {
	loaded, err := c.ctx.LoadModuleByID("http.handlers.load_balancer", json.RawMessage(settings))
	if err != nil {
		return nil, err
	}
	return loaded.(*Handler), nil
}

// mustLoad provisions a load balancer whose config is right.
func (c *harness) mustLoad(settings string) *Handler {
	c.t.Helper()
	h, err := c.load(settings)
	if err != nil {
		c.t.Fatalf("%s: %v", settings, err)
	}
	return h
}

// set is the set of backends that the handler shows.
func (h *Handler) set() *service.Set {
	set, _ := h.service.Shown()
	return set
}

// overview describes the handler's pool.
func (h *Handler) overview() status.Pool {
	return h.app.OverviewOf(h.service, h.service.Running(time.Now()))
}

// app is the app that the handlers brought in.
func (c *harness) app() *app.App {
	c.t.Helper()
	app, err := app.Load(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	return app
}

// logged returns what the config's modules have logged.
func (c *harness) logged() string {
	c.t.Helper()
	text, err := os.ReadFile(c.log)
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	return string(text)
}

// poolExists reports whether the pool of that name has members, and so a config that uses it.
func poolExists(name string) bool {
	m := manage.Acquire(context.Background(), name, &certmagic.FileStorage{}, zap.NewNop())
	defer m.Release()
	return len(m.Pool().Members()) > 0
}

// newRequest is a request as Caddy hands it to a handler.
func newRequest(t testing.TB) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/", nil)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
}

// ride is a request whose attempts are made by a test: it goes no further in its course than it is told to.
type ride struct {
	*call
	w    *httptest.ResponseRecorder
	step course.Step
}

// begin takes a request to the first step of its course.
func begin(t testing.TB, h *Handler, r *http.Request) *ride {
	t.Helper()
	q, told := &ride{call: &call{handler: h}, w: httptest.NewRecorder()}, new(told)
	q.Receive(r, &told.Told)
	q.exchange.Init(&h.plan, q.call, q.call, &told.Record)
	told.Show(&h.observer, &told.Record, &told.Told, q.w, r)
	if err := q.Begin(h.front, q.w, r, time.Now()); err != nil {
		t.Fatal(err)
	}
	q.step = q.course().Begin(time.Now())
	return q
}

func (q *ride) course() *course.Course { return q.exchange.Course() }

// at is the address of the backend of the attempt that is to be made, "" if there is none.
func (q *ride) at() string {
	if q.step.Do != course.Send {
		return ""
	}
	return q.course().Choice().Target.Address()
}

// failOver has the attempt find no connection, for which its backend is not to blame, and another one be chosen.
func (q *ride) failOver(t testing.TB) {
	t.Helper()
	q.step = q.course().Ended(&course.Facts{Kind: course.NotConnected, ClientFault: true}, time.Now())
	if q.step.Do != course.Send {
		t.Fatalf("there is no other attempt: %+v", q.step)
	}
}

// end ends the course.
func (q *ride) end() { q.course().End(course.Ending{}, time.Now()) }

// shares counts where n requests are sent that end at once.
func shares(t *testing.T, h *Handler, n int) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for range n {
		q := begin(t, h, newRequest(t))
		if q.at() == "" {
			t.Fatalf("no backend: %v", q.course().Refused())
		}
		counts[q.at()]++
		q.end()
	}
	return counts
}

// spread is how far the count of n draws that each hit with probability p may be from n*p: seven standard deviations, and ten more for
// what is rare, whose distribution has a longer tail. Chance alone goes beyond it less than once in 10^11 times.
func spread(n int, p float64) float64 { return 7*math.Sqrt(float64(n)*p*(1-p)) + 10 }

func expectError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want an error with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}
