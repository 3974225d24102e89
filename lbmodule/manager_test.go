package lbmodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

const (
	withB    = `{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}]}`
	withoutB = `{"name": "web", "upstreams": [{"dial": "a:1"}]}`
)

func (h *Handler) addresses() string {
	var all []string
	for _, b := range h.overview().Backends {
		all = append(all, b.Address)
	}
	return strings.Join(all, " ")
}

// giveUp has a config fail after it began to serve, as when another app cannot start.
func (c *harness) giveUp() {
	c.t.Helper()
	if err := c.app().Stop(); err != nil {
		c.t.Fatal(err)
	}
	c.cancel()
}

// A removed backend stays away when a config without it is given up, and while an older config has it still; it is back when a config
// has it again after one that had not.
func TestRemovalsAndReloads(t *testing.T) {
	dir := newDir(t)
	first := newConfigIn(t, dir)
	h := first.serve(withB)
	asks(t, "DELETE", webPath+"/backends/b:1?sync", "").wants(t, http.StatusNoContent)

	rejected := newConfigIn(t, dir)
	rejected.serve(withoutB)
	if got := shares(t, h, 10); got["b:1"] != 0 {
		t.Errorf("while a config without it is tried: %v", got)
	}
	rejected.giveUp()
	if got := h.addresses(); got != "a:1" {
		t.Errorf("after a config without it was given up: %s", got)
	}
	second := newConfigIn(t, dir)
	h = second.serve(withB)
	if got := h.addresses(); got != "a:1" {
		t.Errorf("no config that served has dropped it, but there is %s", got)
	}
	first.cancel()

	third := newConfigIn(t, dir)
	h = third.serve(withoutB)
	second.cancel()
	if got := h.addresses(); got != "a:1" {
		t.Errorf("without it: %s", got)
	}
	asks(t, "GET", webPath+"/diff", "").wants(t, http.StatusOK, `"changes":[]`)
	fourth := newConfigIn(t, dir)
	h = fourth.serve(withB)
	third.cancel()
	if got := h.addresses(); got != "a:1 b:1" {
		t.Errorf("the config has it again, but there is %s", got)
	}
}

// Edits go to the storage of the config that serves, also after another one with another storage was given up.
func TestStorageOfRejectedConfig(t *testing.T) {
	dir, other := newDir(t), newDir(t)
	c := newConfigIn(t, dir)
	c.serve(withB)
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 5}`).wants(t, http.StatusOK, `"persisted":true`)
	rejected := newConfigIn(t, other)
	rejected.serve(withB)
	rejected.giveUp()
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 6}`).wants(t, http.StatusOK, `"persisted":true`)
	c.cancel()
	h := newConfigIn(t, dir).serve(withB)
	if got := h.overview().Backends[1].Weight; got != 6 {
		t.Errorf("weight %d in the storage of the config, want 6", got)
	}
}

// Edits move with the config to another storage.
func TestOtherStorage(t *testing.T) {
	dir, other := newDir(t), newDir(t)
	c := newConfigIn(t, dir)
	c.serve(withB)
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 5}`).wants(t, http.StatusOK)
	next := newConfigIn(t, other)
	next.serve(withB)
	c.cancel()
	eventually(t, "the edits to be in the other storage", func() bool {
		files := storageFiles(t, other)
		return len(files) == 1 && strings.HasSuffix(files[0], ".json") // and not on its way there
	})
	next.cancel()
	if got := newConfigIn(t, other).serve(withB).overview().Backends[1].Weight; got != 5 {
		t.Errorf("weight %d, want 5", got)
	}
}

// A pool whose only backend was removed has none, also after a reload.
func TestNobodyLeft(t *testing.T) {
	dir := newDir(t)
	const settings = `{"name": "web", "upstreams": [{"dial": "a:1"}], "load_balancing": {"try_duration": "10ms"}}`
	c := newConfigIn(t, dir)
	c.serve(settings)
	asks(t, "DELETE", webPath+"/backends/a:1?sync", "").wants(t, http.StatusNoContent)
	next := newConfigIn(t, dir)
	h := next.serve(settings)
	c.cancel()
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, newRequest(t), nil); err == nil || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %v", err)
	}
	asks(t, "POST", webPath+"/backends", `{"address": "a:1"}`).wants(t, http.StatusCreated)
	if got := shares(t, h, 3); got["a:1"] != 3 {
		t.Errorf("after it was added again: %v", got)
	}
}

// Names are those of the config that serves.
func TestNamesOfConfigs(t *testing.T) {
	named := func(name string) string {
		return `{"name": "web", "backends": [{"address": "b:1", "name": "` + name + `"}]}`
	}
	first := newConfig(t)
	h := first.serve(named("first"))
	rejected := newConfig(t)
	rejected.serve(named("rejected"))
	rejected.giveUp()
	if got := h.service.Manager().Name("b:1"); got != "first" {
		t.Errorf("called %s after another config was given up", got)
	}
	second := newConfig(t)
	second.serve(`{"name": "web", "upstreams": [{"dial": "b:1"}]}`)
	first.cancel()
	if got := h.service.Manager().Name("b:1"); got != "b:1" {
		t.Errorf("called %s by a config that gives no name", got)
	}
}

// A drain whose time is over when that is noticed is ended all the same.
func TestDrainIsOverAlready(t *testing.T) {
	settings := func(timeout string) string {
		return `{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "drain_timeout": "` + timeout + `"}`
	}
	first := newConfig(t)
	h := first.serve(settings("1h"))
	asks(t, "PATCH", webPath+"/backends/a:1", `{"state": "drain"}`).wants(t, http.StatusOK)
	var live pool.LiveRequest
	ctx, cancel := context.WithCancelCause(t.Context())
	h.plan.Pool.Live.Add(&live, cancel, time.Now())
	defer live.Done()
	live.At("a:1")
	second := newConfig(t)
	second.serve(settings("1ms"))
	first.cancel()
	eventually(t, "the request to be ended", func() bool { return errors.Is(context.Cause(ctx), pool.ErrDrained) })
}

// A request that is being served is shown, and ended when the time of a drain is over, whatever its transport calls that.
func TestDrainEndsRequests(t *testing.T) {
	for want, says := range map[string]func(context.Context) error{
		"a:1 0 context canceled":           context.Context.Err, // HTTP/2
		"a:1 0 " + pool.ErrDrained.Error(): context.Cause,
	} {
		c := newConfig(t)
		h := c.serve(`{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "drain_timeout": "1ms", "load_balancing": {"selection_policy": {"policy": "first"}}}`)
		h.stock.Transport = stock.NewTransport(scripted{"a:1": func(r *http.Request) (*http.Response, error) {
			if live := explained(t, "").Live; len(live) != 1 || live[0].Backend != "a:1" || live[0].Attempts != 1 {
				t.Errorf("live %+v", live)
			}
			asks(t, "PATCH", webPath+"/backends/a:1", `{"state": "drain"}`).wants(t, http.StatusOK)
			<-r.Context().Done()
			return nil, says(r.Context())
		}})
		w, r := httptest.NewRecorder(), newRequest(t)
		err := h.ServeHTTP(w, r, nil)
		if expectError(t, err, "503", pool.ErrDrained.Error()); w.Header().Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if got := attempts(t, r); got != want {
			t.Errorf("attempts: %s; want %s", got, want)
		}
		if live := explained(t, "").Live; len(live) != 0 {
			t.Errorf("live when it is over: %+v", live)
		}
		c.cancel()
	}
}

// What a later version has written is left alone.
func TestLaterDocument(t *testing.T) {
	dir := newDir(t)
	first := newConfigIn(t, dir)
	first.serve(withB)
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 4}`).wants(t, http.StatusOK, `"persisted":true`)
	first.cancel()
	file := storageFiles(t, dir)[0]
	const later = `{"format": "ballast pool state", "schema": 99, "pool": "web"}`
	if err := os.WriteFile(file, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newConfigIn(t, dir)
	c.serve(withB)
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 5}`).wants(t, http.StatusOK, `"persisted":false`, `"weight":5`)
	if text, err := os.ReadFile(file); err != nil || string(text) != later || len(storageFiles(t, dir)) != 1 {
		t.Errorf("%s, %v, %v", text, err, storageFiles(t, dir))
	}
}

// A removal that could not be written says so.
func TestRemovalNotPersisted(t *testing.T) {
	dir := newDir(t)
	if err := os.WriteFile(filepath.Join(dir, "load_balancer"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newConfigIn(t, dir).serve(withB)
	asks(t, "DELETE", webPath+"/backends/b:1?sync", "").wants(t, http.StatusOK, `"removed":true`, `"persisted":false`)
}

// Copies of requests go nowhere once the backends they would choose from are others.
func TestNoHedgeInOldSet(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "hedge": {"percentile": 0.95, "max_extra": 0.5}}`)
	hedges(h, 10*time.Millisecond)
	q := begin(t, h, newRequest(t))
	defer q.end()
	copied, _, ok := q.course().Copy(time.Now())
	if !ok {
		t.Fatal("no copy")
	}
	chooses := func() bool {
		choice, ok := copied.Choose(time.Now())
		if ok {
			choice.Lease.Release()
		}
		return ok
	}
	if !chooses() {
		t.Fatal("a copy goes nowhere")
	}
	asks(t, "DELETE", webPath+"/backends/b:1", "")
	if chooses() {
		t.Error("a copy to a set that is out of date")
	}
}

// With If-Match nothing is changed if the storage cannot be locked; without, the change is in force.
func TestIfMatchWithoutLock(t *testing.T) {
	dir := newDir(t)
	if err := os.WriteFile(filepath.Join(dir, "locks"), nil, 0o600); err != nil { // which is to be a folder
		t.Fatal(err)
	}
	h := newConfigIn(t, dir).serve(withB)
	path := webPath + "/backends/b:1"
	tag := asks(t, "GET", path, "").header.Get("ETag")
	for _, method := range []string{"PATCH", "DELETE"} {
		body := map[string]string{"PATCH": `{"weight": 5}`}[method]
		answer := asks(t, method, path, body, "If-Match", tag)
		answer.wants(t, http.StatusServiceUnavailable, "If-Match", "cannot be compared with the edits in storage", "lock")
		if answer.header.Get("Retry-After") == "" {
			t.Error("the answer does not say when to try again")
		}
	}
	if got := h.overview().Backends[1].Weight; got != 1 {
		t.Errorf("weight %d after a change that was refused, want 1", got)
	}
	asks(t, "PATCH", path, `{"weight": 6}`, "If-Match", "*").wants(t, http.StatusOK, `"weight":6`, `"persisted":false`)
	asks(t, "PATCH", path, `{"weight": 7}`).wants(t, http.StatusOK, `"weight":7`, `"persisted":false`)
}
