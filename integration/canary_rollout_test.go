package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// canaryState is what the API tells of a canary.
type canaryState struct {
	State, Reason, Revision string

	Share          float64
	ErrorEvidence  float64 `json:"error_evidence"`
	Canary, Others struct {
		Requests, Failures int
		ErrorRate          float64 `json:"error_rate"`
	}
}

func (c *caddy) canary() (s canaryState) {
	c.t.Helper()
	c.api(http.MethodGet, "/load_balancer/pools/p/canary", &s)
	return s
}

// users are clients that ask one after the other, until they are stopped.
type users struct {
	c        *caddy
	mu       sync.Mutex
	side     map[string]string // of the last good answer, by user
	moved    atomic.Int64      // good answers of another side than the one before
	answers  map[string]int    // by side and status
	stopping chan struct{}
	all      sync.WaitGroup
}

func (c *caddy) startUsers(n int) *users {
	u := &users{c: c, side: make(map[string]string), answers: make(map[string]int), stopping: make(chan struct{})}
	for i := range n {
		u.all.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-u.stopping:
					return
				default:
					u.ask(fmt.Sprint("user", i, "of", k%5))
				}
			}
		})
	}
	return u
}

// ask has a user ask once.
func (u *users) ask(user string) {
	status, header, _ := u.c.fetch("/", "X-User", user)
	side := header.Get("X-Side")
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[side+" "+fmt.Sprint(status)]++
	if before := u.side[user]; before != "" && before != side {
		u.moved.Add(1)
	}
	u.side[user] = side
}

func (u *users) stop() {
	close(u.stopping)
	u.all.Wait()
}

// asked returns how many answers there were of that side and status.
func (u *users) asked(what string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.answers[what]
}

// canaryOfNew gives the backend with the name new three tenths of the users. Tests run on busy machines, where latencies say nothing.
const canaryOfNew = `canary new 30% {
	by header X-User
	step 50% 1h
	guard {
		latency off
	}
}`

// TestCanaryRollsBack: a canary that begins to answer a tenth with 500 is rolled back. The clients of the others notice nothing, nobody changes
// sides before, and neither a reload in the middle nor one afterwards makes the canary begin anew.
func TestCanaryRollsBack(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 3)
	var bad atomic.Bool
	var n atomic.Int64
	for i, b := range backends {
		b.handle(func(w http.ResponseWriter, _ *http.Request) {
			if i == 2 {
				w.Header().Set("X-Side", "canary")
				if bad.Load() && n.Add(1)%10 == 0 {
					w.WriteHeader(http.StatusInternalServerError)
				}
				return
			}
			w.Header().Set("X-Side", "others")
		})
	}
	config := func(more string) string {
		return fmt.Sprintf(`load_balancer %s %s {
			name p
			backend %s {
				name new
			}
			%s
			%s
		}`, backends[0].addr, backends[1].addr, backends[2].addr, canaryOfNew, more)
	}
	c := startCaddy(t, config(""))
	u := c.startUsers(8)
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			u.stop()
		}
	}
	defer stop()
	waitFor(t, "both sides to be compared", func() bool {
		s := c.canary()
		return s.Canary.Requests > 100 && s.Others.Requests > 100
	})
	before := c.canary()
	if before.State != "running" || before.Share != 0.3 || before.ErrorEvidence >= 250 {
		t.Errorf("begins with %+v", before)
	}
	if err := c.reload(siteConfig(config("header_up X-Reload 1"))); err != nil {
		t.Fatal(err)
	}
	if after := c.canary(); after.Revision != before.Revision || after.Canary.Requests < before.Canary.Requests {
		t.Errorf("after a reload %+v, before %+v", after, before)
	}
	if moved := u.moved.Load(); moved != 0 {
		t.Errorf("%d answers came from another side than before", moved)
	}
	bad.Store(true)
	waitFor(t, "the canary to be rolled back", func() bool { return c.canary().State == "rolled_back" })
	s := c.canary()
	if s.Share != 0 || s.Reason != "errors" || s.ErrorEvidence < 250 || s.Others.Failures != 0 || s.Canary.Failures == 0 {
		t.Errorf("rolled back with %+v", s)
	}
	t.Logf("rolled back after %d failures of %d requests, evidence %.0f", s.Canary.Failures, s.Canary.Requests, s.ErrorEvidence)
	served := u.asked("others 200")
	waitFor(t, "more answers", func() bool { return u.asked("others 200") > served+200 })
	requests := backends[2].requests.Load()
	waitFor(t, "more answers", func() bool { return u.asked("others 200") > served+400 })
	if now := backends[2].requests.Load(); now != requests {
		t.Errorf("the canary got %d requests after it was rolled back", now-requests)
	}
	if err := c.reload(siteConfig(config("header_up X-Reload 2"))); err != nil {
		t.Fatal(err)
	}
	if s := c.canary(); s.State != "rolled_back" {
		t.Errorf("after a reload it is %s", s.State)
	}
	stop()
	u.mu.Lock()
	defer u.mu.Unlock()
	for what, n := range u.answers {
		if !strings.HasSuffix(what, " 200") && what != "canary 500" {
			t.Errorf("%d answers %s", n, what)
		}
	}
	if total := u.answers["canary 200"] + u.answers["canary 500"]; total == 0 {
		t.Error("the canary got no requests")
	}
	if n := c.logged("canary is rolled back"); n != 1 {
		t.Errorf("the log tells %d times, want once", n)
	}
}

// TestCanaryByHand: the API pauses, sets and rolls back, with the entity tag of what it was told.
func TestCanaryByHand(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	c := startCaddy(t, "load_balancer "+addresses+" {\nname p\ncanary "+backends[1].addr+" 10% {\nstep 50% 1h\n}\n}")
	patch := func(body, tag string) (int, string) {
		r, err := http.NewRequest(http.MethodPatch, "http://"+c.admin+"/load_balancer/pools/p/canary", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if tag != "" {
			r.Header.Set("If-Match", tag)
		}
		return c.ask(r)
	}
	tag := `"` + c.canary().Revision + `"`
	if status, text := patch(`{"action": "share", "share": 0.4, "owner": "ann", "reason": "test"}`, tag); status != http.StatusOK || !strings.Contains(text, `"share":0.4`) {
		t.Errorf("%d %s", status, text)
	}
	for body, want := range map[string]int{
		`{"action": "pause"}`: http.StatusPreconditionFailed,
	} {
		if status, text := patch(body, tag); status != want {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	for _, body := range []string{
		``, `[]`, `{}`, `{"action": "stop"}`, `{"action": "share"}`, `{"action": "share", "share": 2}`, `{"action": "share", "share": -1}`,
		`{"action": "pause", "share": 0.1}`, `{"action": "pause", "pool": "q"}`, `{"action": "pause", "action": "resume"}`, `{"action": "pause", "reason": "\u0000"}`,
	} {
		if status, text := patch(body, ""); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	for _, step := range []struct{ action, state string }{
		{"roll_back", "rolled_back"}, {"restart", "running"}, {"pause", "paused"}, {"resume", "running"}, {"promote", "finished"},
	} {
		if status, text := patch(`{"action": "`+step.action+`"}`, ""); status != http.StatusOK || c.canary().State != step.state {
			t.Errorf("%s: %d %s", step.action, status, text)
		}
	}
}

// TestExampleCanary: the example serves, and a twentieth of the clients get the new version.
func TestExampleCanary(t *testing.T) {
	config, err := os.ReadFile("../examples/canary.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	old, other, next := startBackend(t), startBackend(t), startBackend(t)
	c := startCaddyConfig(t, string(config), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS",
		"BACKEND_1="+old.addr, "BACKEND_2="+other.addr, "NEW_VERSION="+next.addr)
	for i := range 400 {
		if status, _, body := c.fetch("/", "Cookie", fmt.Sprint("session=", i)); status != http.StatusOK { // all of one address
			t.Fatalf("%d %s", status, body)
		}
	}
	if n := next.requests.Load(); n < 5 || n > 45 {
		t.Errorf("%d of 400 clients got the new version", n)
	}
}
