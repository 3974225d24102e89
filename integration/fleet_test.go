package integration

import (
	"fmt"
	"net/http"
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
