package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fleetConfig is a Caddyfile whose nodes share a storage. more goes into the load balancer.
func fleetConfig(store, backends, more string) string {
	return "{\n admin ADMIN_ADDRESS\n persist_config off\n storage file_system " + store + "\n}\n" +
		"http://SITE_ADDRESS {\n load_balancer " + backends + " {\n name p\n" + more + "\n }\n}\n"
}

// startNodes starts nodes that share a storage, each with a data directory of its own.
func startNodes(t *testing.T, configs ...string) (nodes []*caddy) {
	t.Helper()
	for _, config := range configs {
		nodes = append(nodes, launchCaddy(t, config, "XDG_DATA_HOME="+t.TempDir()))
	}
	for _, n := range nodes {
		if !n.serves() {
			t.Fatal("caddy ended")
		}
	}
	return nodes
}

// TestWritersOfAFleet: of clients of three nodes that increase a weight with If-Match, none is lost; and of two that change it from the same
// state at the same time, one is refused.
func TestWritersOfAFleet(t *testing.T) {
	t.Parallel()
	_, backend := startBackends(t, 1)
	config := fleetConfig(t.TempDir(), backend, "")
	nodes := startNodes(t, config, config, config)
	const clients, each = 2, 15
	var wg sync.WaitGroup
	var done, stale, busy atomic.Int64
	begin := time.Now()
	for _, n := range nodes {
		for range clients {
			wg.Go(func() {
				for range each {
					for { // bound: a write is refused only because another one succeeded
						now, err := n.tryEdit("GET", backend, "")
						if err != nil || now.status != http.StatusOK {
							t.Errorf("reading: %v, status %d: %s", err, now.status, now.body)
							return
						}
						answer, err := n.tryEdit("PATCH", backend, fmt.Sprintf(`{"weight": %d}`, now.Weight+1), "If-Match", now.etag)
						if err != nil {
							t.Errorf("writing: %v", err)
							return
						}
						if answer.status == http.StatusOK {
							done.Add(1)
							break
						}
						switch answer.status {
						case http.StatusPreconditionFailed:
							stale.Add(1)
						case http.StatusServiceUnavailable:
							busy.Add(1)
						default:
							t.Errorf("writing: status %d: %s", answer.status, answer.body)
							return
						}
					}
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d writes in %v, %d refused for being stale, %d for the lock", done.Load(), time.Since(begin), stale.Load(), busy.Load())
	want := 1 + int(done.Load())
	if int(done.Load()) != len(nodes)*clients*each {
		t.Errorf("%d writes succeeded", done.Load())
	}
	for _, n := range nodes {
		waitFor(t, fmt.Sprintf("weight %d", want), func() bool { return n.edit("GET", backend, "").Weight == want })
	}

	for round := range 10 {
		now := nodes[0].edit("GET", backend, "")
		waitFor(t, "the nodes to agree", func() bool { return nodes[1].edit("GET", backend, "").etag == now.etag })
		statuses := make([]int, 2)
		for i := range statuses {
			wg.Go(func() {
				m, err := nodes[i].tryEdit("PATCH", backend, fmt.Sprintf(`{"weight": %d}`, 1000+2*round+i), "If-Match", now.etag)
				if err != nil {
					t.Error(err)
				}
				statuses[i] = m.status
			})
		}
		wg.Wait()
		if got := fmt.Sprint(statuses); got != "[200 412]" && got != "[412 200]" {
			t.Fatalf("two edits of one state: %s", got)
		}
		for i, status := range statuses {
			if got := nodes[i].edit("GET", backend, "").Weight; status == http.StatusOK && got != 1000+2*round+i {
				t.Fatalf("weight %d after the edit to %d", got, 1000+2*round+i)
			}
		}
	}
}

// fleetView is what the API tells of the fleet.
type fleetView struct {
	Nodes []struct {
		ID, Label, State, Name, Admin string
		This, Alone                   bool
		Pools                         []struct {
			Name     string
			Backends []struct{ Address, Reason string }
		}
	}
	Differences []struct {
		Kind, Pool, Backend string
		Values              []struct {
			Value string
			Nodes []string
		}
	}
	Error string
}

func (c *caddy) fleet() (v fleetView) {
	c.t.Helper()
	status, text := c.askAdmin(http.MethodGet, "/load_balancer/fleet")
	if err := json.Unmarshal(text, &v); err != nil || status != http.StatusOK {
		c.t.Fatalf("status %d, %v: %s", status, err, text)
	}
	return v
}

// states returns the states of the others.
func (v fleetView) states() string {
	var all []string
	for _, n := range v.Nodes {
		if !n.This {
			all = append(all, n.State)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// differs tells how many nodes see what of a kind: the values, each with the number of its nodes.
func (v fleetView) differs(kind string) string {
	var all []string
	for _, d := range v.Differences {
		if d.Kind == kind {
			for _, x := range d.Values {
				all = append(all, fmt.Sprintf("%s %s=%d", d.Backend, x.Value, len(x.Nodes)))
			}
		}
	}
	return strings.Join(all, ", ")
}

// TestFleetView: nodes that share a storage see each other, and where they differ; one that is killed is gone, one that stops is away.
func TestFleetView(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 2)
	var sick atomic.Bool
	backends[0].handle(func(w http.ResponseWriter, r *http.Request) {
		if sick.Load() && r.URL.Path == "/third" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	store := t.TempDir()
	config := func(path string) string {
		site := fleetConfig(store, addresses, " health_check {\n http "+path+"\n interval 200ms\n fast_interval 100ms\n timeout 100ms\n }")
		return strings.Replace(site, " load_balancer ", " handle /dashboard* {\n load_balancer_dashboard\n }\n load_balancer ", 1)
	}
	nodes := startNodes(t, config("/"), config("/"), config("/third"))
	begin := time.Now()
	for _, n := range nodes {
		waitFor(t, "the nodes to see each other", func() bool {
			v := n.fleet()
			all := v.states() == "alive alive"
			for _, o := range v.Nodes {
				all = all && len(o.Pools) == 1 && len(o.Pools[0].Backends) == 2
			}
			return all
		})
	}
	t.Logf("they see each other after %v", time.Since(begin))
	if got := nodes[0].fleet().differs("config"); strings.Count(got, "=2") != 1 || strings.Count(got, "=1") != 1 {
		t.Errorf("one of three has another config, but the difference is %q", got)
	}

	sick.Store(true)
	waitFor(t, "the third to find the backend down", func() bool { return nodes[2].edit("GET", backends[0].addr, "").Reason != "" })
	begin = time.Now()
	want := backends[0].addr + " usable=2, " + backends[0].addr + " active check failed=1"
	for i, n := range nodes {
		waitFor(t, "the difference to be known", func() bool { return n.fleet().differs("usable") == want })
		t.Logf("node %d knows that the third finds a backend down after %v", i, time.Since(begin))
	}
	if stdout, stderr, code := nodes[1].lb("fleet"); code != 0 || !strings.Contains(words(stdout), "usable p "+backends[0].addr+" active check failed ") || strings.Count(stdout, " alive ") != 3 {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	b := openTab(t)
	b.open(nodes[0].url("/dashboard/"), nil)
	b.await("the fleet on the page", "document.getElementById('fleet').checkVisibility() && document.querySelectorAll('#fleet-nodes > div').length === 3")
	b.await("the difference on the page", "document.getElementById('fleet-differences').textContent.includes('active check failed')")
	b.picture("fleet")
	sick.Store(false)
	waitFor(t, "the difference to end", func() bool { return nodes[0].fleet().differs("usable") == "" })

	begin = time.Now()
	_ = nodes[2].cmd.Process.Kill()
	waitFor(t, "the killed node to be gone", func() bool {
		return nodes[0].fleet().states() == "alive gone" && nodes[1].fleet().states() == "alive gone"
	})
	t.Logf("a node that was killed is gone after %v", time.Since(begin))
	if took := time.Since(begin); took < 30*time.Second {
		t.Errorf("it is gone after %v only", took)
	}
	if _, text := nodes[0].askAdmin(http.MethodGet, "/metrics"); !strings.Contains(string(text), `caddy_load_balancer_nodes{state="alive"} 2`) || !strings.Contains(string(text), `caddy_load_balancer_nodes{state="gone"} 1`) {
		t.Error("the metrics do not count two that are alive and one that is gone")
	}
	b.await("the page to say it", "document.getElementById('fleet-nodes').textContent.includes('gone')")

	nodes[1].stop()
	waitFor(t, "the stopped node to be away", func() bool { return nodes[0].fleet().states() == "gone" })
	documents, err := filepath.Glob(filepath.Join(store, "load_balancer", "nodes", "*.json"))
	if err != nil || len(documents) != 2 {
		t.Errorf("documents %v, %v; want those of the node that is left, and of the one that was killed", documents, err)
	}
	waitFor(t, "the last to know that it is alone", func() bool { return nodes[0].fleet().Nodes[0].Alone })
}

// document is what a node keeps in storage.
type document struct {
	ID   string `json:"id"`
	Beat uint64 `json:"beat"`
	size int
}

// TestFleetCost: what nodes tell each other has a bounded size and costs little, however many backends there are. Soaks measure smaller pools,
// too.
func TestFleetCost(t *testing.T) {
	t.Parallel()
	sizes := []int{10_000}
	if *soak {
		sizes = []int{10, 1000, 10_000}
	}
	for _, size := range sizes {
		store, elsewhere := t.TempDir(), t.TempDir()
		all := make([]string, size)
		for i := range all {
			all[i] = fmt.Sprintf("127.%d.%d.%d:9", 1+i>>16, i>>8&255, i&255)
		}
		config := func(store string) string { return fleetConfig(store, strings.Join(all, " "), "") }
		nodes := startNodes(t, config(store), config(store), config(elsewhere))
		waitFor(t, "two nodes to see each other", func() bool {
			a, b := nodes[0].fleet(), nodes[1].fleet()
			return len(a.Nodes) == 2 && len(b.Nodes) == 2 && !a.Nodes[0].Alone && !b.Nodes[0].Alone && !a.Nodes[1].Alone
		})
		documents := func(store string) (all []document) {
			files, err := filepath.Glob(filepath.Join(store, "load_balancer", "nodes", "*.json"))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				d := document{size: len(text)}
				if err = cmp.Or(err, json.Unmarshal(text, &d)); err != nil {
					t.Fatal(err)
				}
				all = append(all, d)
			}
			return all
		}
		var used [3]float64
		begin, before := time.Now(), append(documents(store), documents(elsewhere)...)
		for i, n := range nodes {
			used[i] = n.cpuSeconds()
		}
		waitFor(t, "each node to write twice", func() bool { // seen in the storage: asking them would cost them something
			now := append(documents(store), documents(elsewhere)...)
			return len(now) == len(before) && !slices.ContainsFunc(now, func(d document) bool {
				return slices.ContainsFunc(before, func(was document) bool { return d.ID == was.ID && d.Beat < was.Beat+2 })
			})
		})
		span := time.Since(begin).Seconds()
		for i, n := range nodes {
			used[i] = (n.cpuSeconds() - used[i]) / span
		}
		shared, alone := documents(store), documents(elsewhere)
		t.Logf("%d backends: documents (id, beat, bytes) %v, alone %v; CPU %.2f and %.2f %% of a core, alone %.2f %%", size, shared, alone, 100*used[0], 100*used[1], 100*used[2])
		if len(shared) != 2 || len(alone) != 1 || max(shared[0].size, shared[1].size) > 64<<10 || alone[0].size > 1<<10 {
			t.Errorf("%d backends: documents (id, beat, bytes) %v, alone %v", size, shared, alone)
		}
		if more := (used[0]+used[1])/2 - used[2]; more > 0.05 {
			t.Errorf("%d backends: telling others takes %.1f %% of a core", size, 100*more)
		}
		for _, n := range nodes {
			n.stop()
		}
	}
}

// cpuSeconds is the CPU time that the process has used.
func (c *caddy) cpuSeconds() float64 {
	c.t.Helper()
	_, text := c.askAdmin(http.MethodGet, "/metrics")
	for line := range strings.Lines(string(text)) {
		if number, is := strings.CutPrefix(line, "process_cpu_seconds_total "); is {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil {
				c.t.Fatal(err)
			}
			return seconds
		}
	}
	c.t.Fatal("the metrics do not tell the CPU time")
	return 0
}
