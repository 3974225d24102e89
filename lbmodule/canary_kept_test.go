package lbmodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/canary"
)

const splitPath = "/load_balancer/pools/split"

// canaryFiles are the documents of canaries below dir.
func canaryFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "load_balancer", "canaries", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A canary that was rolled back is off after a restart of the process, and begins anew with other settings, or once a config without it has
// served.
func TestCanaryIsKept(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	c.serve(withCanary(""))
	asks(t, "PATCH", splitPath+"/canary", `{"action": "roll_back", "reason": "no good"}`).wants(t, 200, `"state":"rolled_back"`)
	if n := len(canaryFiles(t, dir)); n != 1 {
		t.Fatalf("%d documents when the API has answered", n)
	}
	raw, err := os.ReadFile(canaryFiles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "X-User") || strings.Contains(string(raw), "no good") {
		t.Errorf("settings and remarks are stored: %s", raw)
	}
	c.cancel() // nothing is left of the pool but what is in storage

	tried := newConfigIn(t, dir)
	if r := tried.mustLoad(withCanary("")).canary.run.Report(); r.State != canary.RolledBack || r.Reason != canary.ReasonByHand {
		t.Errorf("before it serves: %v %v", r.State, r.Reason)
	}
	tried.cancel()
	tried = newConfigIn(t, dir)
	tried.mustLoad(`{"name": "split", "upstreams": [{"dial": "a:1"}]}`)
	tried.cancel()
	c = newConfigIn(t, dir)
	h := c.serve(withCanary(""))
	for address := range shares(t, h, 50) {
		if isNew(address) {
			t.Errorf("after a restart, %s got requests", address)
		}
	}
	c.cancel()

	c = newConfigIn(t, dir)
	h = c.serve(strings.Replace(withCanary(""), "0.3", "0.2", 1))
	if r := h.canary.run.Report(); r.State == canary.RolledBack || r.Share != 0.2 {
		t.Errorf("with other settings: %v %v", r.State, r.Share)
	}
	without := newConfigIn(t, dir)
	without.serve(`{"name": "split", "upstreams": [{"dial": "a:1"}]}`)
	if n := len(canaryFiles(t, dir)); n != 1 {
		t.Errorf("%d documents while another config has the canary", n)
	}
	c.cancel()
	eventually(t, "the document to be removed", func() bool { return len(canaryFiles(t, dir)) == 0 })
}

// What the guard does is kept, too, and a document that is broken is told of and taken for none.
func TestCanaryKeptByItself(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	h := c.serve(withCanary(""))
	// A hundred failures within a second cannot be bad luck.
	eventually(t, "the canary to be rolled back", func() bool {
		for range 40 {
			h.canary.run.Counts(canary.Canary).Failed()
			h.canary.run.Counts(canary.Others).Answered(time.Millisecond)
		}
		return h.canary.run.Off()
	})
	eventually(t, "that to be kept", func() bool { return len(canaryFiles(t, dir)) == 1 })
	c.cancel()
	c = newConfigIn(t, dir)
	h = c.serve(withCanary(""))
	if r := h.canary.run.Report(); r.State != canary.RolledBack || r.Reason != canary.ReasonErrors {
		t.Errorf("%+v", r)
	}
	c.cancel()
	if err := os.WriteFile(canaryFiles(t, dir)[0], []byte(`{"format": "ballast canary"`), 0o600); err != nil {
		t.Fatal(err)
	}
	c = newConfigIn(t, dir)
	h = c.serve(withCanary(""))
	if r := h.canary.run.Report(); r.State == canary.RolledBack || r.Share != 0.3 {
		t.Errorf("with a broken document: %v %v", r.State, r.Share)
	}
	if n := strings.Count(c.logged(), "state of canary cannot be read"); n != 1 {
		t.Errorf("%d lines in the log:\n%s", n, c.logged())
	}
}
