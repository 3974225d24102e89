package lbmodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/status"
)

const twoNamed = `{"name": "web", "upstreams": [{"dial": "a:1"}], "backends": [{"address": "b:1", "name": "b", "weight": 3}]}`

// serve loads a load balancer and has its config serve.
func (c *harness) serve(settings string) *Handler {
	c.t.Helper()
	h := c.mustLoad(settings)
	c.start()
	return h
}

func (c *harness) start() {
	c.t.Helper()
	if err := c.app().Start(); err != nil {
		c.t.Fatal(err)
	}
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   string
}

// asks asks the API as Caddy's admin endpoint does. Headers are pairs.
func asks(t testing.TB, method, path, body string, header ...string) reply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	err := serveAPI(t, w, r)
	if err == nil {
		return reply{w.Code, w.Header(), w.Body.String()}
	}
	var answer caddy.APIError
	if !errors.As(err, &answer) {
		t.Fatalf("%s %s: %v is no API error", method, path, err)
	}
	return reply{answer.HTTPStatus, w.Header(), answer.Err.Error()}
}

// serveAPI asks the API.
func serveAPI(t testing.TB, w http.ResponseWriter, r *http.Request) error {
	t.Helper()
	module, err := caddy.GetModule("admin.api.load_balancer")
	if err != nil {
		t.Fatal(err)
	}
	return module.New().(caddy.AdminRouter).Routes()[0].Handler.ServeHTTP(w, r)
}

// wants fails the test unless the answer has that status and these parts.
func (r reply) wants(t *testing.T, status int, parts ...string) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	for _, part := range parts {
		if !strings.Contains(r.body, part) {
			t.Errorf("answer %q lacks %q", r.body, part)
		}
	}
	return r
}

func (r reply) backend(t *testing.T) (b status.Backend) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		t.Fatalf("%v: %s", err, r.body)
	}
	return b
}

const webPath = "/load_balancer/pools/web"

func TestEditBackends(t *testing.T) {
	h := newConfig(t).serve(twoNamed)
	before := shares(t, h, 4)
	if before["a:1"] == 0 && before["b:1"] == 0 {
		t.Fatalf("got %v", before)
	}
	asks(t, "GET", webPath, "").wants(t, http.StatusOK, `"warnings":[]`)
	added := asks(t, "POST", webPath+"/backends?sync", `{"address": "[::1]:8080", "weight": 2, "owner": "deploy", "reason": "more load"}`).
		wants(t, http.StatusCreated, `"source":"api"`, `"persisted":true`, `"owner":"deploy"`)
	if got, want := added.header.Get("Location"), webPath+"/backends/%5B::1%5D:8080"; got != want {
		t.Errorf("Location %s, want %s", got, want)
	}
	got := asks(t, "GET", added.header.Get("Location"), "").wants(t, http.StatusOK)
	if got.header.Get("ETag") != added.header.Get("ETag") {
		t.Error("the ETag of the answer is not that of the backend")
	}
	b := asks(t, "PATCH", webPath+"/backends/b", `{"weight": 7, "max_requests": 9, "backup": true, "zone": "eu"}`).wants(t, http.StatusOK).backend(t)
	if b.Weight != 7 || b.MaxRequests != 9 || b.Backup != 1 || b.Zone != "eu" || len(b.Edits) != 4 {
		t.Errorf("edited: %+v", b)
	}
	b = asks(t, "PATCH", webPath+"/backends/b:1", `{"backup": null, "max_requests": null, "zone": ""}`).wants(t, http.StatusOK).backend(t)
	if b.Backup != 0 || b.MaxRequests != 0 || b.Zone != "" || len(b.Edits) != 2 {
		t.Errorf("taken back: %+v", b)
	}
	var diff status.Difference
	if err := json.Unmarshal([]byte(asks(t, "GET", webPath+"/diff", "").wants(t, http.StatusOK).body), &diff); err != nil {
		t.Fatal(err)
	}
	want := "# replaces the upstream b:1\nbackend b:1 {\n\tname b\n\tweight 7\n}\nbackend [::1]:8080 {\n\tweight 2\n}\n"
	if diff.Caddyfile != want || len(diff.JSON) != 2 || len(diff.Changes) != 3 {
		t.Errorf("diff %+v", diff)
	}
	asks(t, "DELETE", webPath+"/backends/b?sync", "").wants(t, http.StatusNoContent)
	asks(t, "GET", webPath+"/backends/b", "").wants(t, http.StatusNotFound, "backend b")
	asks(t, "DELETE", webPath+"/backends/%5B::1%5D%3A8080?sync", "").wants(t, http.StatusNoContent)
	if got := shares(t, h, 4); got["a:1"] != 4 {
		t.Errorf("after all others were removed: %v", got)
	}
	asks(t, "GET", webPath+"/diff", "").wants(t, http.StatusOK, `"removed":true`, "# b:1 was removed")
	asks(t, "POST", webPath+"/backends", `{"address": "b:1"}`).wants(t, http.StatusCreated, `"name":"b"`, `"weight":3`, `"source":"config"`)
	asks(t, "POST", webPath+"/backends/b/reset", "").wants(t, http.StatusOK, `"requests":0`)
	// A change of the pool is told of, and of this pool only.
	if len(app.Events.After(0)) == 0 {
		t.Error("no events")
	}
}

// Whatever is wrong is refused with its name, and changes nothing.
func TestWrongChanges(t *testing.T) {
	newConfig(t).serve(twoNamed)
	state := asks(t, "GET", webPath, "").header.Get("ETag")
	post, patch := func(body string) reply { return asks(t, "POST", webPath+"/backends", body) }, func(body string) reply { return asks(t, "PATCH", webPath+"/backends/b", body) }
	for name, wrong := range map[string]struct {
		got    reply
		status int
		parts  []string
	}{
		"no JSON":            {patch("weight=5"), 400, []string{"body"}},
		"twice":              {patch(`{"weight": 1, "weight": 2}`), 400, []string{"weight: given twice"}},
		"null":               {patch("null"), 400, []string{"body: must be a JSON object"}},
		"nothing":            {patch("{}"), 400, []string{"must have one of"}},
		"only a reason":      {patch(`{"reason": "x"}`), 400, []string{"must have one of"}},
		"unknown":            {patch(`{"wait": 5}`), 400, []string{"wait: unknown setting"}},
		"address":            {patch(`{"address": "c:1"}`), 400, []string{"address"}},
		"weight, type":       {patch(`{"weight": "5"}`), 400, []string{"weight 5: must be a whole number"}},
		"weight, range":      {patch(`{"weight": 65536}`), 400, []string{"weight 65536: must be from 0 to 65535"}},
		"weight, negative":   {patch(`{"weight": -1}`), 400, []string{"weight -1"}},
		"max_requests":       {patch(`{"max_requests": -1}`), 400, []string{"max_requests -1: must be from 1 to 10000000"}},
		"max_requests, word": {patch(`{"max_requests": "sometimes"}`), 400, []string{"max_requests sometimes: must be a whole number, or auto"}},
		"state":              {patch(`{"state": "off"}`), 400, []string{"state off: must be ready, drain or maintenance"}},
		"backup":             {patch(`{"backup": 10}`), 400, []string{"backup 10: must be from 1 to 9"}},
		"zone":               {patch(`{"zone": "<b>"}`), 400, []string{"zone"}},
		"for":                {patch(`{"weight": 5, "for": "soon"}`), 400, []string{`for "soon"`}},
		"for, past":          {patch(`{"weight": 5, "for": "-1m"}`), 400, []string{"for"}},
		"until":              {patch(`{"weight": 5, "until": "tomorrow"}`), 400, []string{"RFC 3339"}},
		"until, past":        {patch(`{"weight": 5, "until": "2006-01-02T15:04:05Z"}`), 400, []string{"must be in the future"}},
		"until, far":         {patch(`{"weight": 5, "until": "9999-12-31T23:59:59-12:00"}`), 400, []string{"within ten years"}},
		"max_requests 0":     {patch(`{"max_requests": 0}`), 400, []string{"max_requests 0: must be from 1 to 10000000"}},
		"for, too short":     {patch(`{"weight": 5, "for": "1ns"}`), 400, []string{"for 1ns: must be from 1s to 87600h"}},
		"for, no time":       {patch(`{"weight": 5, "for": "0s"}`), 400, []string{"for 0s: must be from 1s to 87600h"}},
		"for, backwards":     {patch(`{"weight": 5, "for": "-1h"}`), 400, []string{"for -1h: must be from 1s to 87600h"}},
		"for, no duration":   {patch(`{"weight": 5, "for": "soon"}`), 400, []string{`for "soon": must be a duration from 1s to 87600h`}},
		"for, far":           {patch(`{"weight": 5, "for": "99999999h"}`), 400, []string{"for"}},
		"for and until":      {patch(`{"weight": 5, "for": "1m", "until": "2106-01-02T15:04:05Z"}`), 400, []string{"until: must not be combined with for"}},
		"timed null":         {patch(`{"weight": null, "for": "1m"}`), 400, []string{"weight null"}},
		"reason, newline":    {patch(`{"weight": 5, "reason": "a\nb"}`), 400, []string{"reason"}},
		"owner, long":        {patch(`{"weight": 5, "owner": "` + strings.Repeat("x", 300) + `"}`), 400, []string{"owner"}},
		"owner, null":        {patch(`{"weight": 5, "owner": null}`), 400, []string{"owner null"}},
		"large":              {patch(`{"reason": "` + strings.Repeat("x", 1<<20) + `"}`), 413, []string{"body"}},
		"no such backend":    {asks(t, "PATCH", webPath+"/backends/x", `{"weight": 5}`), 404, []string{"backend x"}},
		"no such pool":       {asks(t, "PATCH", "/load_balancer/pools/x/backends/b", `{"weight": 5}`), 404, []string{"pool x"}},
		"no address":         {post(`{"weight": 5}`), 400, []string{"address: missing"}},
		"address, no port":   {post(`{"address": "c"}`), 400, []string{"address c"}},
		"address, ports":     {post(`{"address": "c:1-9"}`), 400, []string{"must be one socket"}},
		"address, scheme":    {post(`{"address": "http://c:1"}`), 400, []string{"without scheme"}},
		"address, no host":   {post(`{"address": "weight=3:80"}`), 400, []string{"address weight=3:80", "without '='"}},
		"address, template":  {post(`{"address": "{http.request.host}:1"}`), 400, []string{"placeholders"}},
		"address, HTML":      {post(`{"address": "<img src=x>:1"}`), 400, []string{"address"}},
		"name":               {post(`{"address": "c:1", "name": "a b"}`), 400, []string{"name"}},
		"there already":      {post(`{"address": "a:1"}`), 409, []string{"address a:1"}},
		"name taken":         {post(`{"address": "c:1", "name": "b"}`), 409, []string{"name b"}},
		"name of an address": {post(`{"address": "c:1", "name": "a:1"}`), 409, []string{"name a:1"}},
		"added null":         {post(`{"address": "c:1", "weight": null}`), 400, []string{"weight null"}},
		"removal":            {asks(t, "DELETE", webPath+"/backends/b", `{"weight": 5}`), 400, []string{"weight"}},
		"stale":              {asks(t, "PATCH", webPath+"/backends/b", `{"weight": 5}`, "If-Match", `"x"`), 412, []string{"If-Match"}},
		"stale removal":      {asks(t, "DELETE", webPath+"/backends/b", "", "If-Match", `"x"`), 412, []string{"If-Match"}},
		"stale addition":     {asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`, "If-Match", `"x"`), 412, []string{"If-Match"}},
		"method":             {asks(t, "PUT", webPath+"/backends/b", `{}`), 405, []string{"method PUT: must be one of GET, PATCH, DELETE"}},
		"method, pools":      {asks(t, "DELETE", webPath, ""), 405, []string{"GET"}},
		"path":               {asks(t, "GET", webPath+"/nothing", ""), 404, nil},
		"path, empty name":   {asks(t, "GET", webPath+"/backends//reset", ""), 404, nil},
		"traversal":          {asks(t, "GET", "/load_balancer/pools/..%2F..%2Fetc", ""), 404, []string{"pool ../../etc"}},
		"newline in a name":  {asks(t, "GET", webPath+"/backends/a%0Ab", ""), 404, nil},
	} {
		t.Run(name, func(t *testing.T) { wrong.got.wants(t, wrong.status, wrong.parts...) })
	}
	if after := asks(t, "GET", webPath, "").header.Get("ETag"); after != state {
		t.Error("something was changed")
	}
}

// If-Match guards against lost updates: of writers that increase a weight, none is lost.
func TestIfMatch(t *testing.T) {
	newConfig(t).serve(twoNamed)
	path := webPath + "/backends/b"
	first := asks(t, "GET", path, "")
	asks(t, "PATCH", path, `{"weight": 4}`, "If-Match", first.header.Get("ETag")).wants(t, http.StatusOK)
	asks(t, "PATCH", path, `{"weight": 5}`, "If-Match", first.header.Get("ETag")).wants(t, http.StatusPreconditionFailed)
	asks(t, "PATCH", path, `{"weight": 6}`, "If-Match", "*").wants(t, http.StatusOK)
	// What it was is not what it is, also when it looks the same.
	asks(t, "PATCH", path, `{"weight": 3}`).wants(t, http.StatusOK)
	asks(t, "PATCH", path, `{"weight": 5}`, "If-Match", first.header.Get("ETag")).wants(t, http.StatusPreconditionFailed)

	const writers, each = 8, 25
	done := make(chan error, writers)
	for range writers {
		go func() {
			for range each {
				for {
					got := asks(t, "GET", path, "")
					var b status.Backend
					if err := json.Unmarshal([]byte(got.body), &b); err != nil {
						done <- err
						return
					}
					change := fmt.Sprintf(`{"weight": %d}`, b.Weight+1)
					if answer := asks(t, "PATCH", path, change, "If-Match", got.header.Get("ETag")); answer.status == http.StatusOK {
						break
					} else if answer.status != http.StatusPreconditionFailed {
						done <- errors.New(answer.body)
						return
					}
				}
			}
			done <- nil
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if b := asks(t, "GET", path, "").backend(t); b.Weight != 3+writers*each {
		t.Errorf("weight %d, want %d", b.Weight, 3+writers*each)
	}
}

// A drained backend is given nothing, and ramped up when it is back.
func TestDrain(t *testing.T) {
	h := newConfig(t).serve(twoNamed)
	path := webPath + "/backends/a:1"
	for _, state := range []string{"drain", "maintenance"} {
		b := asks(t, "PATCH", path, `{"state": "`+state+`"}`).wants(t, http.StatusOK).backend(t)
		if b.State != state || b.Usable || b.EffectiveWeight != 0 || b.Reason == "" {
			t.Errorf("%s: %+v", state, b)
		}
		if got := shares(t, h, 20); got["a:1"] != 0 {
			t.Errorf("%s: got %v", state, got)
		}
		p := h.overview()
		if p.State != "ok" || p.Usable != 1 {
			t.Errorf("%s: the pool is %s with %d usable; who is out on purpose is not missing", state, p.State, p.Usable)
		}
		b = asks(t, "PATCH", path, `{"state": "ready"}`).wants(t, http.StatusOK).backend(t)
		if !b.Usable || b.SlowStart == nil || *b.SlowStart > 0.5 {
			t.Errorf("back from %s: %+v", state, b)
		}
	}
	asks(t, "PATCH", path, `{"state": "drain"}`)
	asks(t, "PATCH", webPath+"/backends/b", `{"state": "maintenance"}`)
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, newRequest(t), nil); err == nil || w.Header().Get("Retry-After") == "" {
		t.Errorf("with nobody left: %v", err)
	}
}

// A removed backend stays until its requests have ended, unless it is forced.
func TestRemovalWaits(t *testing.T) {
	h := newConfig(t).serve(`{"name": "web", "upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "first"}}}`)
	for _, force := range []bool{false, true} {
		asks(t, "POST", webPath+"/backends", `{"address": "c:1"}`).wants(t, http.StatusCreated)
		asks(t, "PATCH", webPath+"/backends/a:1", `{"state": "drain"}`)
		q := begin(t, h, newRequest(t))
		if q.at() != "c:1" {
			t.Fatalf("got %q", q.at())
		}
		path := webPath + "/backends/c:1"
		if force {
			asks(t, "DELETE", path+"?force&sync", "").wants(t, http.StatusNoContent)
			asks(t, "GET", path, "").wants(t, http.StatusNotFound)
		} else {
			asks(t, "DELETE", path, `{"reason": "old"}`).wants(t, http.StatusAccepted, `"removing":true`, `"in_flight":1`)
			asks(t, "DELETE", path, "").wants(t, http.StatusAccepted)
			asks(t, "PATCH", path, `{"weight": 5}`).wants(t, http.StatusConflict)
		}
		q.end()
		eventually(t, "the backend to leave", func() bool { return asks(t, "GET", path, "").status == http.StatusNotFound })
		asks(t, "PATCH", webPath+"/backends/a:1", `{"state": null}`)
	}
}

// eventually polls until done, 10 s at most.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// A timed change undoes itself.
func TestTimedChanges(t *testing.T) {
	h := newConfig(t).serve(twoNamed)
	begun := app.Events.Newest()
	b := asks(t, "PATCH", webPath+"/backends/b", `{"weight": 9, "state": "drain", "for": "2s", "owner": "me"}`).wants(t, http.StatusOK).backend(t)
	if b.Weight != 9 || b.Until == nil || b.Edits[0].TimeLeft == "" || b.Edits[0].Owner != "me" {
		t.Errorf("%+v", b)
	}
	asks(t, "POST", webPath+"/backends", `{"address": "c:1", "for": "2s"}`).wants(t, http.StatusCreated, `"time_left"`)
	eventually(t, "the changes to be over", func() bool {
		b = asks(t, "GET", webPath+"/backends/b", "").backend(t)
		return b.Weight == 3 && b.State == "ready" && asks(t, "GET", webPath+"/backends/c:1", "").status == http.StatusNotFound
	})
	if len(b.Edits) != 0 || b.Until != nil {
		t.Errorf("it is over, but %+v", b)
	}
	// They are told of when they are over already.
	eventually(t, "an event for each", func() bool {
		expired := 0
		for _, e := range app.Events.After(begun) {
			if e.Name == "change_expired" && e.Data["pool"] == h.plan.Pool.Name() {
				expired++
			}
		}
		return expired == 3
	})
}

// Edits survive reloads, also those of the config that drop and bring back a backend, and restarts.
func TestEditsAreKept(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	c.serve(twoNamed)
	asks(t, "PATCH", webPath+"/backends/b?sync=1", `{"weight": 9}`).wants(t, http.StatusOK, `"persisted":true`)
	asks(t, "POST", webPath+"/backends?sync", `{"address": "c:1", "name": "c", "weight": 4}`).wants(t, http.StatusCreated)
	asks(t, "DELETE", webPath+"/backends/a:1?sync", "").wants(t, http.StatusNoContent)

	expect := func(when string, h *Handler, want map[string]int) {
		t.Helper()
		got := make(map[string]int)
		for _, b := range h.overview().Backends {
			got[b.Name] = b.Weight
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	reload := func(settings string) (*harness, *Handler) {
		next := newConfigIn(t, dir)
		h := next.serve(settings)
		c.cancel()
		c = next
		return next, h
	}
	_, h := reload(twoNamed)
	expect("after a reload", h, map[string]int{"b": 9, "c": 4})
	c.cancel() // nothing is left of the pool but what is in storage
	c = newConfigIn(t, dir)
	h = c.serve(twoNamed)
	expect("after a restart", h, map[string]int{"b": 9, "c": 4})
	_, h = reload(`{"name": "web", "backends": [{"address": "b:1", "name": "b", "weight": 3}, {"address": "c:1", "name": "gained", "max_requests": 5}]}`)
	expect("when the config gains a backend and drops one", h, map[string]int{"b": 9, "gained": 4})
	if b := asks(t, "GET", webPath+"/backends/gained", "").backend(t); b.MaxRequests != 5 || b.Source != "config" {
		t.Errorf("the config does not rule what was never edited: %+v", b)
	}
	_, h = reload(twoNamed)
	expect("when the config has the dropped one again", h, map[string]int{"a:1": 1, "b": 9, "c": 4})
}

// A config that is given up again changes nothing.
func TestRejectedConfigKeepsEdits(t *testing.T) {
	c := newConfig(t)
	h := c.serve(twoNamed)
	asks(t, "DELETE", webPath+"/backends/a:1?sync", "").wants(t, http.StatusNoContent)
	other := newConfig(t)
	other.mustLoad(`{"name": "web", "upstreams": [{"dial": "x:1"}]}`)
	if got := shares(t, h, 4); got["b:1"] != 4 {
		t.Errorf("while another config is provisioned: %v", got)
	}
	asks(t, "PATCH", webPath+"/backends/b", `{"weight": 5}`).wants(t, http.StatusOK)
	other.cancel()
	if got := shares(t, h, 4); got["b:1"] != 4 {
		t.Errorf("after it was given up: %v", got)
	}
	asks(t, "GET", webPath+"/diff", "").wants(t, http.StatusOK, `"removed":true`)
}

// storageFile is the one file of edits below dir.
func storageFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "load_balancer", "pools", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What is in storage and cannot be read is set aside; the config rules.
func TestUnreadableEdits(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	c.serve(twoNamed)
	asks(t, "PATCH", webPath+"/backends/b?sync", `{"weight": 9}`).wants(t, http.StatusOK)
	c.cancel()
	files := storageFiles(t, dir)
	if len(files) != 1 {
		t.Fatalf("files %v", files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(text), `"value":9`, `"value":8`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c = newConfigIn(t, dir)
	h := c.serve(twoNamed)
	if b := h.overview().Backends[1]; b.Weight != 3 {
		t.Errorf("weight %d, want the config's", b.Weight)
	}
	eventually(t, "the file to be set aside", func() bool {
		return slices.ContainsFunc(storageFiles(t, dir), func(f string) bool { return strings.HasSuffix(f, ".unreadable") })
	})
	if n := strings.Count(c.logged(), "cannot be read; the config applies"); n != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", n, c.logged())
	}
	asks(t, "PATCH", webPath+"/backends/b?sync", `{"weight": 7}`).wants(t, http.StatusOK, `"persisted":true`)
}

// A storage that cannot be written to harms nothing, is told of once, and written to when it can be.
func TestUnwritableEdits(t *testing.T) {
	dir := newDir(t)
	blocked := filepath.Join(dir, "load_balancer")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // no directory can be made of that name
		t.Fatal(err)
	}
	c := newConfigIn(t, dir)
	h := c.serve(twoNamed)
	for weight := 5; weight < 8; weight++ {
		b := asks(t, "PATCH", webPath+"/backends/b?sync", fmt.Sprintf(`{"weight": %d}`, weight)).wants(t, http.StatusOK).backend(t)
		if b.Weight != weight || b.Persisted == nil || *b.Persisted {
			t.Errorf("%+v", b)
		}
	}
	if b := h.overview().Backends[1]; b.Weight != 7 {
		t.Errorf("weight %d", b.Weight)
	}
	if n := strings.Count(c.logged(), "cannot be written"); n != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", n, c.logged())
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	asks(t, "PATCH", webPath+"/backends/b?sync", `{"weight": 8}`).wants(t, http.StatusOK, `"persisted":true`)
	eventually(t, "the log to say so", func() bool { return strings.Contains(c.logged(), "in storage again") })
}
