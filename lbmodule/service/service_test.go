package service

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// owner is a config that has no name for anything.
type owner struct{ storage certmagic.Storage }

func (o *owner) Storage() certmagic.Storage { return o.storage }

func (*owner) Tell(manage.Notice) {}

// open makes a load balancer of the pool of that name and opens it. What is left out of o is filled in.
func open(t testing.TB, name string, o Options, addresses ...string) *Service {
	t.Helper()
	var upstreams []stock.Upstream
	for _, address := range addresses {
		upstreams = append(upstreams, stock.Upstream{Dial: address})
	}
	roster, err := NewRoster(upstreams, nil, o.Limit, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	o.Manager = manage.Acquire(t.Context(), name, storage, zap.NewNop())
	t.Cleanup(o.Manager.Release)
	o.Owner, o.Logger, o.Roster, o.Policy = &owner{storage}, zap.NewNop(), roster, new(policies.RoundRobin)
	if o.Settings == nil {
		o.Settings = new(config.Settings)
	}
	s := New(o)
	o.Manager.Serve(s.Owner())
	t.Cleanup(func() { o.Manager.Unserve(s.Owner()) })
	s.stock, s.transport = new(stock.Handler), http.DefaultTransport
	s.manager.Attach(s)
	t.Cleanup(s.Close)
	return s
}

// addresses are those of the backends that are shown, in order.
func (s *Service) addresses() (all []string) {
	set, _ := s.Shown()
	for i := range set.View().Len() {
		all = append(all, set.View().Backend(i).Address)
	}
	return all
}

// Edits are in force in a set of its own, which takes the place of the one before.
func TestEditsMakeAnotherSet(t *testing.T) {
	s := open(t, "service-edits", Options{Limit: 5}, "a:1", "b:1")
	before, _ := s.Shown()
	_, err := s.Manager().Change(func(e *manage.Edits, _ manage.Group) (*overlay.Overlay, error) {
		return e.Add("c:1", "", nil, overlay.Mark{}).Remove("a:1", overlay.Mark{}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.addresses(); !slices.Equal(got, []string{"b:1", "c:1"}) {
		t.Errorf("backends %v", got)
	}
	superseded, other := before.Superseded()
	if other != nil {
		t.Error("without a dynamic source there is something that tells of its backends")
	}
	select {
	case <-superseded:
	default:
		t.Error("the set before is in force still")
	}
	after, _ := s.Shown()
	if at := after.Find("c:1"); at != 1 || after.Upstream(at).MaxRequests != 5 || after.Find("a:1") != -1 {
		t.Errorf("c:1 is at %d, with a cap of %d; a:1 at %d", at, after.Upstream(at).MaxRequests, after.Find("a:1"))
	}
}

// tried reports whether the members of a set are redialed for waiting requests.
func tried(s *Set) bool {
	s.lifetime.mu.Lock()
	defer s.lifetime.mu.Unlock()
	return s.lifetime.end != nil
}

// A set stays open while requests stay with it, even if its config ended before they came.
func TestStay(t *testing.T) {
	s := open(t, "service-stay", Options{}, "a:1")
	set, _ := s.Shown()
	s.Start()
	set.Stay()
	if tried(set) {
		t.Error("members are redialed for a waiting request, although the config redials them")
	}
	s.Close()
	set.Stay()
	if n, m := len(s.Pool().Members()), tried(set); n != 1 || !m {
		t.Errorf("while two wait: %d members, tried: %v", n, m)
	}
	set.Leave()
	if n, m := len(s.Pool().Members()), tried(set); n != 1 || !m {
		t.Errorf("while one waits: %d members, tried: %v", n, m)
	}
	set.Leave()
	if n, m := len(s.Pool().Members()), tried(set); n != 0 || m {
		t.Errorf("when no request waits any more: %d members, tried: %v", n, m)
	}
	set.Stay()
	if n, m := len(s.Pool().Members()), tried(set); n != 1 || !m {
		t.Errorf("when a request comes after the end: %d members, tried: %v", n, m)
	}
	set.Leave()
	if n := len(s.Pool().Members()); n != 0 {
		t.Errorf("%d members are held by nobody", n)
	}
}

// A source that is queried after its config has ended makes a set that stays open for waiting requests, and is not remembered.
func TestNamedAfterTheEnd(t *testing.T) {
	s := open(t, "service-late", Options{})
	s.dynamic = &dynamicSource{service: s, sets: sets{service: s}}
	s.Close()
	set, _ := s.newSet(s.dynamic.sets.roster(&found{list: []*reverseproxy.Upstream{{Dial: "a:1"}}}), pool.Settings{})
	s.dynamic.sets.mu.Lock()
	s.dynamic.sets.remember(knownSet{set: set})
	s.dynamic.sets.mu.Unlock()
	set.Stay()
	if n, m := len(s.Pool().Members()), tried(set); n != 1 || !m || len(s.dynamic.sets.known) != 0 {
		t.Errorf("%d members, tried: %v; %d sets are remembered", n, m, len(s.dynamic.sets.known))
	}
	set.Leave()
	if n := len(s.Pool().Members()); n != 0 {
		t.Errorf("%d members are held by nobody", n)
	}
}

// checkWith is the check with these settings, which is made over a transport with that config.
func checkWith(t *testing.T, settings, transport string) *probing {
	t.Helper()
	var c config.HealthCheck
	if err := json.Unmarshal([]byte(settings), &c); err != nil {
		t.Fatal(err)
	}
	return &probing{check: c.WithDefaults(), transport: http.DefaultTransport, raw: []byte(transport)}
}

// Checks with the same settings for probes share one check, whatever their thresholds are.
func TestCheckKeys(t *testing.T) {
	const plain, secure = `{"protocol": "http"}`, `{"protocol": "http", "tls": {}}`
	key := func(settings, transport, address string) string {
		t.Helper()
		check, err := checkWith(t, settings, transport).checkOf(address)
		if err != nil {
			t.Fatal(err)
		}
		return check.Key
	}
	same := key(`{"uri": "/x"}`, plain, "a:1")
	if got := key(`{"uri": "/x", "rise": 5, "initial": "up"}`, plain, "a:1"); got != same {
		t.Errorf("%s and %s are different checks", got, same)
	}
	for _, other := range []string{
		key(`{"uri": "/y"}`, plain, "a:1"), key(`{"uri": "/x"}`, plain, "b:1"), key(`{"uri": "/x", "interval": "1s"}`, plain, "a:1"),
		key(`{"uri": "/x"}`, secure, "a:1"),
	} {
		if other == same {
			t.Errorf("%s is taken for the same check", other)
		}
	}
}

// Two checks of one address over transports of their own are two checks.
func TestCheckTransport(t *testing.T) {
	key := func(transport string) string {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		defer cancel()
		s := New(Options{Manager: manage.Acquire(t.Context(), "service-checks", &certmagic.FileStorage{Path: t.TempDir()}, zap.NewNop()),
			Check: &config.HealthCheck{Type: "http", URI: "/", TransportRaw: json.RawMessage(transport)}})
		defer s.Manager().Release()
		if err := s.loadProbing(ctx, nil); err != nil {
			t.Fatal(err)
		}
		check, err := s.probing.checkOf("a:1")
		if err != nil {
			t.Fatal(err)
		}
		return check.Key
	}
	if plain, secure := key(`{"protocol": "http"}`), key(`{"protocol": "http", "tls": {}}`); plain == secure {
		t.Errorf("both are %s", plain)
	}
}

// TestProbeTargets: the address, URL and TLS server name of probes.
func TestProbeTargets(t *testing.T) {
	const port, elsewhere = `{"port": 81}`, `{"port": 81, "upstream": "check.internal:82"}`
	for _, test := range []struct {
		address, settings, want, url, name string
		elsewhere                          bool
	}{
		{"a:80", `{}`, "tcp a:80", "http://a:80", "a", false},
		{"a:80", port, "tcp a:81", "http://a:81", "a", true},
		{"a:80", elsewhere, "tcp check.internal:82", "http://check.internal:82", "check.internal", true},
		{"[::1]:80", port, "tcp [::1]:81", "http://[::1]:81", "::1", true},
		{"tcp4/a:80", `{}`, "tcp4 a:80", "http://a:80", "a", false},
		{"tcp6/[::1]:80", port, "tcp6 [::1]:81", "http://[::1]:81", "::1", true},
		{"unix//run/app.sock", `{}`, "unix /run/app.sock", "http://localhost", "localhost", false},
		{"unix//run/app.sock", port, "unix /run/app.sock", "http://localhost", "localhost", false},
		{"unix/@app", port, "unix @app", "http://localhost", "localhost", false},
		{"fd/3", port, "fd 3", "http://localhost", "localhost", false},
		{"unix//run/app.sock", elsewhere, "tcp check.internal:82", "http://check.internal:82", "check.internal", true},
		{"a:80", `{"upstream": "unix//run/check.sock"}`, "unix /run/check.sock", "http://localhost", "localhost", true},
	} {
		p := checkWith(t, test.settings, `{}`)
		target, err := p.target(test.address)
		if err != nil {
			t.Errorf("%s %s: %v", test.address, test.settings, err)
			continue
		}
		if got := target.String(); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.address, test.settings, got, test.want)
		}
		if got := target.URL(p.transport).String(); got != test.url {
			t.Errorf("%s %s: URL %s, want %s", test.address, test.settings, got, test.url)
		}
		if got := target.TLSConfig(p.transport).ServerName; got != test.name {
			t.Errorf("%s %s: server name %s, want %s", test.address, test.settings, got, test.name)
		}
		if got := p.elsewhere(test.address); got != test.elsewhere {
			t.Errorf("%s %s: elsewhere is %v, want %v", test.address, test.settings, got, test.elsewhere)
		}
	}
}

func TestCanPoll(t *testing.T) {
	t.Setenv("BALLAST_TEST_NAME", "app.internal")
	for raw, want := range map[string]bool{
		`{"source": "a", "name": "app.internal", "port": "80"}`:                                   true,
		`{"source": "a", "name": "{env.BALLAST_TEST_NAME}"}`:                                      true,
		`{"source": "a", "name": "{http.request.host}"}`:                                          false,
		`{"source": "srv", "name": "app.internal"}`:                                               true,
		`{"source": "srv", "name": "app.internal", "resolver": {"addresses": ["{http.vars.x}"]}}`: false,
		`{"source": "multi", "sources": [{"source": "a", "name": "x"}]}`:                          true,
		`{"source": "multi", "sources": [{"source": "a", "name": "x"}, {"source": "other"}]}`:     false,
		`{"source": "other"}`: false,
		`7`:                   false,
	} {
		if got := CanPoll([]byte(raw)); got != want {
			t.Errorf("%s: %v, want %v", raw, got, want)
		}
	}
}
