package integration

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// lane is what the API tells of an express lane.
type lane struct {
	On         bool
	Reason     string
	Served     uint64
	HandedOver map[string]uint64 `json:"handed_over"`
	Routes     []struct {
		Pool   string
		Served bool
		Reason string
	}
}

func (c *caddy) lane() lane {
	c.t.Helper()
	all := c.lanes()
	if len(all) != 1 {
		c.t.Fatalf("%d express lanes, want 1: %+v", len(all), all)
	}
	return all[0]
}

// lanes are those of all servers, whether they are on or not.
func (c *caddy) lanes() (all []lane) {
	c.t.Helper()
	c.api(http.MethodGet, "/load_balancer/express", &all)
	return all
}

// laneServed is how many requests the express lane has served, and how many it has left to Caddy, by reason.
func (c *caddy) laneServed() (n uint64, left map[string]uint64) {
	c.t.Helper()
	left = make(map[string]uint64)
	for _, l := range c.lanes() {
		if n += l.Served; !l.On {
			continue
		}
		for reason, n := range l.HandedOver {
			left[reason] += n
		}
	}
	return n, left
}

// TestExpressIsTold: the API and the command tell what the express lane serves, and why not the rest, also after a reload.
func TestExpressIsTold(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	config := strings.Replace(siteConfig("@odd {\n path /odd/*\n query odd=*\n}\nload_balancer @odd "+b.addr+" {\n name odd\n}\nload_balancer "+b.addr+" {\n name main\n}"), seamless, expressOn, 1)
	c := startCaddyConfig(t, config)
	// Each has a connection of its own: some would stay with Caddy otherwise.
	ask := func(path string, header ...string) {
		t.Helper()
		r := c.request(http.MethodGet, nil, header...)
		r.URL.Path, r.Close = path, true
		if status, body := c.ask(r); status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, status, body)
		}
	}
	round := func() {
		ask("/")
		ask("/a")
		ask("/odd/a")
		ask("/a b")
		ask("/a", "Te", "trailers")
	}
	check := func(when string, rounds uint64) {
		t.Helper()
		got := c.lane()
		if !got.On || got.Served != 2*rounds || got.HandedOver["query"] != rounds || got.HandedOver["path"] != rounds || got.HandedOver["te"] != rounds {
			t.Errorf("%s: %+v, want %d rounds", when, got, rounds)
		}
		if len(got.Routes) != 2 || got.Routes[0].Reason != "query" || got.Routes[1].Pool != "main" || !got.Routes[1].Served {
			t.Errorf("%s: routes %+v", when, got.Routes)
		}
	}
	round()
	check("at first", 1)
	if err := c.reload(strings.Replace(config, "path /odd/*", "path /odd/* /odder/*", 1)); err != nil {
		t.Fatal(err)
	}
	round()
	check("after a reload", 2)
	out, err := exec.CommandContext(t.Context(), caddyBinary, "lb", "express", "--address", c.admin).CombinedOutput()
	for _, want := range []string{"on       4", "load_balancer  main  yes", "load_balancer  odd   no      query", "2            te"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("caddy lb express: %v, want %q in\n%s", err, want, out)
		}
	}
	if err := c.reload(strings.Replace(config, "\n seamless\n", "\n seamless {\n express off\n }\n", 1)); err != nil {
		t.Fatal(err)
	}
	round()
	if got := c.lane(); got.On || got.Reason != "off" || got.Served != 4 {
		t.Errorf("switched off: %+v", got)
	}
}
