package ratelimit

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
	"github.com/ballastlb/ballast/ratelimit/redisstore"
)

// handlerOf returns a handler in memory, as Provision leaves it.
func handlerOf(s Settings) *Handler {
	h := &Handler{Settings: s, app: new(App), logger: zap.NewNop(), limits: s.limits(), identifier: newIdentifier(&s)}
	h.exemptions, _ = s.exempt()
	h.zone = &zone{name: "z", table: bucket.New(h.limits, 1000, time.Now)}
	return h
}

var next = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

func TestServeHTTPAllocatesNothing(t *testing.T) {
	h := handlerOf(Settings{Rate: "1000000/s", Concurrency: 10, Exempt: []string{"10.0.0.0/8"}})
	r, w := requestOf("2001:db8::1"), httptest.NewRecorder()
	if n := testing.AllocsPerRun(1000, func() {
		if err := h.ServeHTTP(w, r, next); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a request, want 0", n)
	}
}

// With on_error allow, requests are not limited by rate while the store does not answer, but still by concurrency.
func TestAllowKeepsConcurrency(t *testing.T) {
	closed, err := redisstore.New(redisstore.Options{URL: "redis://127.0.0.1:1", Timeout: time.Second, Changed: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil { // the store is unavailable then
		t.Fatal(err)
	}
	h := handlerOf(Settings{Rate: "1/h", Concurrency: 2, Redis: &Redis{OnError: onErrorAllow}})
	h.store = &store{Store: closed}
	r := requestOf("192.0.2.1")
	passed := 0
	var deeper caddyhttp.HandlerFunc
	deeper = func(w http.ResponseWriter, r *http.Request) error {
		passed++
		return h.ServeHTTP(w, r, deeper)
	}
	for range 3 {
		passed = 0
		if err := h.ServeHTTP(httptest.NewRecorder(), r, deeper); err == nil || passed != 2 {
			t.Errorf("%d at a time, %v, want 2 and a refusal", passed, err)
		}
	}
}

// A config whose Cleanup is called without Stop leaves nothing behind.
func TestCleanupStops(t *testing.T) {
	before := serving.Latest()
	a := &App{ctx: caddy.Context{Context: t.Context()}}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if serving.Latest() != a {
		t.Error("the app does not serve")
	}
	for range 2 {
		if err := a.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if serving.Latest() != before {
		t.Error("the app still serves")
	}
}

// A grant is given back when a later handler panics.
func TestPanicsGiveBack(t *testing.T) {
	for _, several := range []bool{false, true} {
		h := handlerOf(Settings{Concurrency: 1})
		h.app.several = several
		r := requestOf("192.0.2.1")
		for range 3 {
			func() {
				defer func() { _ = recover() }()
				if err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
					panic(http.ErrAbortHandler)
				})); err != nil {
					t.Errorf("refused: %v", err)
				}
			}()
		}
	}
}

// A limit in an error route does not refund the limits of the main routes: their handlers have returned.
func TestPassesEndWithTheirHandler(t *testing.T) {
	first, second := handlerOf(Settings{Rate: "1/h", Burst: 5}), handlerOf(Settings{Rate: "1/h", Burst: 1})
	first.app.several, second.app.several = true, true
	r := requestOf("192.0.2.1")
	tokens := func() int {
		u, _ := first.zone.table.Look(first.identifier.identify(r).all[0])
		return int(u.Tokens)
	}
	inside := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return second.ServeHTTP(w, r, next) })
	for i, want := range []int{4, 4} { // the second is refused and given back
		if err := first.ServeHTTP(httptest.NewRecorder(), r, inside); (err != nil) != (i == 1) {
			t.Errorf("request %d: %v", i, err)
		}
		if got := tokens(); got != want {
			t.Errorf("%d tokens after request %d, want %d", got, i, want)
		}
	}
	if err := first.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Fatal(err)
	}
	if err := second.ServeHTTP(httptest.NewRecorder(), r, next); err == nil {
		t.Error("want it refused")
	}
	if got := tokens(); got != 3 {
		t.Errorf("%d tokens, want 3", got)
	}
}
