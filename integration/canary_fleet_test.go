package integration

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestCanaryOfAFleet: a canary that is bad for the clients of one node is rolled back at both, stays so when a node is restarted, and goes on
// at both when somebody says so at one.
func TestCanaryOfAFleet(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 2)
	var bad atomic.Bool
	var served atomic.Int64
	backends[1].handle(func(w http.ResponseWriter, _ *http.Request) {
		served.Add(1)
		if bad.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	store := t.TempDir()
	config := fleetConfig(store, backends[0].addr, fmt.Sprintf(`
		backend %s {
			name new
		}
		%s
		retry off`, backends[1].addr, canaryOfNew))
	nodes := startNodes(t, config, config)
	u := nodes[0].startUsers(4)
	defer u.stop()
	waitFor(t, "both sides to be compared", func() bool {
		s := nodes[0].canary()
		return s.Canary.Requests > 50 && s.Others.Requests > 50
	})
	for i, n := range nodes {
		if s := n.canary(); s.State != "running" || s.Share != 0.3 {
			t.Fatalf("node %d: %+v", i, s)
		}
	}
	bad.Store(true)
	off := func(n *caddy) bool {
		s := n.canary()
		return s.State == "rolled_back" && s.Share == 0 && s.Reason == "errors"
	}
	waitFor(t, "the node with the clients to roll back", func() bool { return off(nodes[0]) })
	begin := time.Now()
	waitFor(t, "the other one to follow", func() bool { return off(nodes[1]) })
	t.Logf("the other node follows after %v", time.Since(begin))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it follows after %v", took)
	}
	if s := nodes[1].canary(); s.Canary.Requests != 0 {
		t.Errorf("it had clients of its own: %+v", s)
	}
	before := served.Load()
	for i := range 50 {
		if status, _ := nodes[1].as("X-User", fmt.Sprint("user", i)); status != http.StatusOK {
			t.Errorf("status %d at the node that follows", status)
		}
	}
	if n := served.Load() - before; n != 0 {
		t.Errorf("the canary has had %d requests since", n)
	}
	if n := nodes[1].logged("canary is rolled back"); n != 1 {
		t.Errorf("%d lines in the log of the node that follows", n)
	}

	nodes[1].stop()
	nodes[1] = startNodes(t, config)[0]
	if !off(nodes[1]) {
		t.Errorf("after a restart: %+v", nodes[1].canary())
	}
	files, err := filepath.Glob(filepath.Join(store, "load_balancer", "canaries", "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("documents %v, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Size() > 1024 {
		t.Errorf("%v, %v", info, err)
	}

	bad.Store(false)
	if status, text := nodes[1].askAdminWith(http.MethodPatch, "/load_balancer/pools/p/canary", "application/json", `{"action": "restart"}`); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, text)
	}
	begin = time.Now()
	waitFor(t, "the first to go on, too", func() bool { return nodes[0].canary().State == "running" })
	t.Logf("a restart by hand is in force at the other node after %v", time.Since(begin))
}
