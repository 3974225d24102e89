package lbmodule

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// browser is a client that keeps the cookies it is given.
type browser struct {
	t       *testing.T
	h       *Handler
	cookies map[string]string
	set     string // the last Set-Cookie, "" if the last answer had none
}

func newBrowser(t *testing.T, h *Handler) *browser {
	return &browser{t: t, h: h, cookies: make(map[string]string)}
}

// get makes one request and returns the backend that has answered, or why there was none.
func (b *browser) get(change ...func(r *http.Request)) (string, error) {
	b.t.Helper()
	r := newRequest(b.t)
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for _, c := range change {
		c(r)
	}
	var at string
	b.h.stock.Transport = stock.NewTransport(answering(func(r *http.Request) *http.Response { at = r.URL.Host; return answerOf(http.StatusOK) }))
	w := httptest.NewRecorder()
	err := b.h.ServeHTTP(w, r, nil)
	b.set = w.Header().Get("Set-Cookie")
	for _, c := range w.Result().Cookies() {
		b.cookies[c.Name] = c.Value
	}
	return at, err
}

// stays checks that all requests go to that backend, without another cookie.
func (b *browser) stays(at string) {
	b.t.Helper()
	for range 20 {
		if got, err := b.get(); got != at || b.set != "" {
			b.t.Fatalf("goes to %s (%v) and is told %q, want %s and no cookie", got, err, b.set, at)
		}
	}
}

func stickyConfig(name, policy string) string {
	return fmt.Sprintf(`{"name": %q, "slow_start": {"disabled": true}, "backends": [{"address": "a:1"}, {"address": "b:1"}, {"address": "c:1"}],
		"load_balancing": {"selection_policy": {%s}}}`, name, policy)
}

const oneSecret = `"policy": "sticky", "secrets": ["s3cret"]`

// refuse has as many connections to a backend fail as make it dead, and revive has one succeed.
func refuse(h *Handler, address string) {
	tellAll(h, address, pool.Verdict{Outcome: pool.Failure, Refused: true})
}

func tellAll(h *Handler, address string, verdict pool.Verdict) {
	view := h.set().View()
	for range 5 {
		if l, ok := view.AcquireMember(h.set().Find(address)); ok {
			l.Judge(verdict, time.Now())
			l.Release()
		}
	}
}

func TestSticky(t *testing.T) {
	h := newConfig(t).mustLoad(stickyConfig("sticky", oneSecret))
	again := newConfig(t).mustLoad(stickyConfig("sticky-elsewhere", oneSecret)) // another machine
	seen := make(map[string]bool)
	const sessions = 100 // of which none begins at one of three by chance once in 10^17 times
	for range sessions {
		b := newBrowser(t, h)
		at, err := b.get()
		if err != nil || b.set == "" {
			t.Fatalf("a new session: %s, %v, cookie %q", at, err, b.set)
		}
		if strings.Contains(b.set, "a:1") || !strings.Contains(b.set, "; Path=/; HttpOnly; SameSite=Lax") {
			t.Errorf("cookie %q", b.set)
		}
		b.stays(at)
		b.h = again
		b.stays(at)
		seen[at] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d sessions began at %v", sessions, seen)
	}
}

func TestStickyRebinds(t *testing.T) {
	h := newConfig(t).mustLoad(stickyConfig("sticky-rebinds", oneSecret))
	b := newBrowser(t, h)
	at, _ := b.get()
	refuse(h, at)
	other, err := b.get()
	if err != nil || other == at || b.set == "" {
		t.Fatalf("its backend gone, it goes to %s, %v, cookie %q", other, err, b.set)
	}
	b.stays(other)
	if got := h.plan.Pool.Rebound(); got != 1 {
		t.Errorf("%d sessions rebound, want 1", got)
	}
}

func TestStickyStrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newQuietConfig(t).mustLoad(stickyConfig("sticky-strict", oneSecret+`, "strict": true`))
		b := newBrowser(t, h)
		at, _ := b.get()
		refuse(h, at)
		for range 10 {
			if got, err := b.get(); !errors.Is(err, course.ErrSessionGone) {
				t.Fatalf("its backend gone, it goes to %s, %v", got, err)
			}
		}
		if got, err := newBrowser(t, h).get(); err != nil || got == at {
			t.Errorf("a new session: %s, %v", got, err)
		}
		// Nor is one served whose backend is not in the config any more.
		less := newQuietConfig(t).mustLoad(`{"name": "sticky-less", "upstreams": [{"dial": "d:1"}], "load_balancing": {"selection_policy": {` + oneSecret + `, "strict": true}}}`)
		b.h = less
		if got, err := b.get(); !errors.Is(err, course.ErrSessionGone) {
			t.Errorf("its backend not known, it goes to %s, %v", got, err)
		}
	})
}

// A backend without a weight keeps its sessions and is given no new ones.
func TestStickyKeepsSessionsOfWeight0(t *testing.T) {
	h := newConfig(t).mustLoad(stickyConfig("sticky-before", oneSecret))
	var b *browser
	for at := ""; at != "b:1"; {
		b = newBrowser(t, h)
		at, _ = b.get()
	}
	drained := newConfig(t).mustLoad(strings.Replace(stickyConfig("sticky-drained", oneSecret), `"b:1"`, `"b:1", "weight": 0`, 1))
	b.h = drained
	b.stays("b:1")
	for range 30 {
		if at, err := newBrowser(t, drained).get(); at == "b:1" || err != nil {
			t.Fatalf("a new session at %s, %v", at, err)
		}
	}
	refuse(drained, "b:1")
	if at, err := b.get(); at == "b:1" || err != nil || b.set == "" {
		t.Errorf("when it is gone: %s, %v, cookie %q", at, err, b.set)
	}
}

// While its backend is full, a session is served elsewhere and stays what it is.
func TestStickyFull(t *testing.T) {
	for _, strict := range []bool{false, true} {
		h := newConfig(t).mustLoad(strings.ReplaceAll(stickyConfig(fmt.Sprint("sticky-full-", strict), oneSecret+fmt.Sprintf(`, "strict": %v`, strict)),
			`:1"}`, `:1", "max_requests": 1}`))
		b := newBrowser(t, h)
		at, _ := b.get()
		l, _ := h.set().View().AcquireSession(h.set().Find(at))
		switch other, err := b.get(); {
		case strict && !errors.Is(err, course.ErrSessionFull):
			t.Errorf("strict, its backend full: %s, %v", other, err)
		case !strict && (err != nil || other == at || b.set != ""):
			t.Errorf("its backend full: %s, %v, cookie %q", other, err, b.set)
		}
		l.Release()
		b.stays(at)
	}
}

// A strict session finds its backend again after a failure: only its own requests try the backend.
func TestStickyStrictRecovers(t *testing.T) {
	for _, state := range []string{"ready", "drain"} {
		h := newConfig(t).serve(`{"name": "sticky-recovers", "backends": [{"address": "a:1"}, {"address": "b:1"}], "breaker": {"open": {"first": "2s", "max": "2s"}, "probes": 1},
			"load_balancing": {"selection_policy": {` + oneSecret + `, "strict": true}}}`)
		b := newBrowser(t, h)
		at, err := b.get()
		if err != nil {
			t.Fatal(err)
		}
		asks(t, "PATCH", "/load_balancer/pools/sticky-recovers/backends/"+at, `{"state": "`+state+`"}`).wants(t, http.StatusOK)
		listens(t, h, h.set().Find(at))
		tellAll(h, at, pool.Verdict{Outcome: pool.Failure})
		if _, err := b.get(); !errors.Is(err, course.ErrSessionGone) {
			t.Errorf("%s: %v", state, err)
		}
		eventually(t, "the session to be let in as a probe", func() bool {
			got, err := b.get()
			return err == nil && got == at
		})
	}
}

// Strict sessions have no part in the queue: they want a slot of one backend.
func TestStickyStrictDoesNotQueue(t *testing.T) {
	h := newConfig(t).mustLoad(`{"name": "sticky-queue", "backends": [{"address": "a:1", "max_requests": 1}, {"address": "b:1", "max_requests": 1}],
		"queue": {"size": 10, "timeout": "1h"}, "load_balancing": {"selection_policy": {` + oneSecret + `, "strict": true}}}`)
	b := newBrowser(t, h)
	at, _ := b.get()
	l, _ := h.set().View().AcquireSession(h.set().Find(at))
	defer l.Release()
	if _, err := b.get(); !errors.Is(err, course.ErrSessionFull) {
		t.Errorf("its backend is full: %v", err)
	}
	if n := h.plan.Pool.QueueLength(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// The settings of a fallback policy hold.
func TestFallbackSettings(t *testing.T) {
	const three = `{"name": "fallbacks", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}], "load_balancing": {"selection_policy": {%s}}}`
	for _, policy := range []string{
		oneSecret + `, "fallback": {"policy": "weighted_round_robin", "weights": [5, 3, 2]}`,
		`"policy": "uri_hash", "fallback": {"policy": "weighted_round_robin", "weights": [5, 3, 2]}`,
		`"policy": "hash", "keys": ["{http.request.header.K}"], "fallback": {"policy": "weighted_round_robin", "weights": [5, 3, 2]}`,
	} {
		h := newConfig(t).mustLoad(fmt.Sprintf(three, policy))
		view := h.set().View()
		if a, b, c := view.Backend(0).Weight, view.Backend(1).Weight, view.Backend(2).Weight; a != 5 || b != 3 || c != 2 {
			t.Errorf("%s: weights %d, %d, %d", policy, a, b, c)
		}
		_, err := newConfig(t).load(fmt.Sprintf(three, strings.Replace(policy, "[5, 3, 2]", "[5, 3]", 1)))
		expectError(t, err, "2 weights for 3 backends")
	}
	h := newConfig(t).mustLoad(fmt.Sprintf(three, oneSecret+`, "fallback": {"policy": "peak_ewma", "until": "last_byte"}`))
	if !h.rules.UntilLastByte {
		t.Error("the fallback's setting is lost")
	}
}

func TestStickyRotation(t *testing.T) {
	config := func(name, secrets string) *Handler {
		return newConfig(t).mustLoad(stickyConfig(name, `"policy": "lb_sticky", "secrets": [`+secrets+`]`))
	}
	b := newBrowser(t, config("sticky-old", `"old"`))
	at, _ := b.get()
	b.h = config("sticky-both", `"new", "old"`)
	if got, err := b.get(); got != at || b.set == "" {
		t.Fatalf("with both secrets: %s, %v, cookie %q; want %s, and a new cookie", got, err, b.set, at)
	}
	b.stays(at)
	b.h = config("sticky-new", `"new"`)
	b.stays(at)
}

// Cookies that are not ours are as none.
func TestStickyForged(t *testing.T) {
	h := newConfig(t).mustLoad(stickyConfig("sticky-forged", oneSecret+`, "strict": true`))
	b := newBrowser(t, h)
	at, _ := b.get()
	good := b.cookies["lb"]
	id, sum, _ := strings.Cut(good, ".")
	other := newBrowser(t, newConfig(t).mustLoad(stickyConfig("sticky-other", `"policy": "sticky", "secrets": ["guess"]`)))
	_, _ = other.get()
	for _, forged := range []string{
		"", ".", "x", id, id + ".", "." + sum, id + "." + sum + "x", strings.ToUpper(good), strings.Repeat("x", 7000), id[1:] + "A." + sum,
		other.cookies["lb"], hex.EncodeToString([]byte(good)), "a:1", "\x00\xff",
	} {
		b := newBrowser(t, h)
		got, err := b.get(func(r *http.Request) { r.Header.Set("Cookie", "lb="+forged) })
		if err != nil || b.set == "" {
			t.Errorf("cookie %.40q: %s, %v, cookie %q", forged, got, err, b.set)
		}
	}
	// Of several the good one counts; of many, the first few.
	got, err := b.get(func(r *http.Request) { r.Header.Set("Cookie", "lb=x; a=b; lb="+good+"; lb=y") })
	if got != at || err != nil {
		t.Errorf("one of three is good: %s, %v, want %s", got, err, at)
	}
	flood := strings.Repeat("lb=x; ", 500)
	if _, err := newBrowser(t, h).get(func(r *http.Request) { r.Header.Set("Cookie", flood+"lb="+good) }); err != nil {
		t.Errorf("the last of many: %v", err)
	}
}

func TestStickyAttributes(t *testing.T) {
	for i, test := range []struct {
		settings string
		change   func(r *http.Request)
		want     string
	}{
		{`"name": "s", "max_age": "1h", "path": "/app", "domain": "example.com", "secure": "on", "scripts": true, "same_site": "none"`, nil,
			"; Path=/app; Domain=example.com; Max-Age=3600; Secure; SameSite=None"},
		{`"same_site": "strict"`, nil, "; Path=/; HttpOnly; SameSite=Strict"},
		{`"secure": "auto"`, func(r *http.Request) { r.Header.Set("X-Forwarded-Proto", "https") }, "; Path=/; HttpOnly; SameSite=Lax"},
	} {
		h := newConfig(t).mustLoad(stickyConfig(fmt.Sprint("sticky-attributes-", i), oneSecret+", "+test.settings))
		b := newBrowser(t, h)
		if test.change == nil {
			test.change = func(*http.Request) {}
		}
		if _, err := b.get(test.change); err != nil || !strings.HasSuffix(b.set, test.want) || strings.Contains(b.set, "Secure") != strings.Contains(test.want, "Secure") {
			t.Errorf("%s: cookie %q (%v), want it to end in %q", test.settings, b.set, err, test.want)
		}
	}
}

// Without a cookie of our own, the same value of the application's has the same backend.
func TestStickyLearns(t *testing.T) {
	h := newConfig(t).mustLoad(stickyConfig("sticky-learns", `"policy": "sticky", "learn_cookie": "JSESSIONID", "learn_header": "X-Session"`))
	seen := make(map[string]bool)
	for i := range 30 {
		value := fmt.Sprint("session-", i)
		b := newBrowser(t, h)
		b.cookies["JSESSIONID"] = value
		at, err := b.get()
		if err != nil {
			t.Fatal(err)
		}
		b.stays(at)
		delete(b.cookies, "JSESSIONID")
		if got, _ := b.get(func(r *http.Request) { r.Header.Set("X-Session", value) }); got != at {
			t.Errorf("%s: as a header it is at %s, as a cookie at %s", value, got, at)
		}
		seen[at] = true
	}
	if len(seen) != 3 {
		t.Errorf("30 sessions at %v only", seen)
	}
}

// Caddy's own cookie goes on where reverse_proxy gave it: the same backend, the same value.
func TestStickyServesCookie(t *testing.T) {
	const policy = `"policy": "cookie", "name": "lb", "secret": "s3cret", "max_age": "1h"`
	loaded, err := newConfig(t).ctx.LoadModuleByID(policies.Namespace+".cookie", []byte(`{"name": "lb", "secret": "s3cret", "max_age": "1h"}`))
	if err != nil {
		t.Fatal(err)
	}
	h := newConfig(t).mustLoad(stickyConfig("sticky-stock", policy))
	var upstreams reverseproxy.UpstreamPool
	view := h.set().View()
	for i := range view.Len() {
		upstreams = append(upstreams, &reverseproxy.Upstream{Dial: view.Backend(i).Address, Host: new(reverseproxy.Host)})
	}
	for range 10 {
		recorder := httptest.NewRecorder()
		u := loaded.(reverseproxy.Selector).Select(upstreams, newRequest(t), recorder)
		b := newBrowser(t, h)
		b.cookies["lb"] = recorder.Result().Cookies()[0].Value
		b.stays(u.Dial)
		ours := newBrowser(t, h)
		at, _ := ours.get()
		if at == u.Dial && ours.set != recorder.Header().Get("Set-Cookie") {
			t.Errorf("cookie %q, Caddy's own %q", ours.set, recorder.Header().Get("Set-Cookie"))
		}
	}
}

func TestStickyErrors(t *testing.T) {
	t.Setenv("BALLAST_TEST_EMPTY", "")
	for policy, want := range map[string]string{
		`"policy": "sticky"`: "secret: missing",
		`"policy": "sticky", "secrets": ["{env.BALLAST_TEST_EMPTY}"]`:                                         "secret: is empty",
		`"policy": "sticky", "secrets": ["a"], "secure": "no"`:                                                "secure no",
		`"policy": "sticky", "secrets": ["a"], "fallback": {"policy": "foreign"}`:                             "fallback",
		`"policy": "sticky", "secrets": ["a"], "name": "a b"`:                                                 "name",
		`"policy": "sticky", "secrets": ["a"], "max_age": -1`:                                                 "max_age",
		`"policy": "sticky", "secrets": ["a"], "fallback": {"policy": "lb_hash", "keys": ["no placeholder"]}`: "placeholder",
	} {
		_, err := newConfig(t).load(stickyConfig("sticky-error", policy))
		expectError(t, err, "selection_policy", want)
	}
}
