package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/status"
)

// subsetOf is the config of a pool with n backends.
func subsetOf(n int, subset, more string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(`{"address": "127.1.%d.%d:1"}`, i>>8, i&255)
	}
	return `{"name": "web", "subset": ` + subset + `, "backends": [` + strings.Join(all, ",") + `]` + more + `}`
}

// used are the addresses of the backends in use.
func (h *Handler) used() map[string]bool {
	used := make(map[string]bool)
	view := h.set().View()
	for i := range view.Len() {
		used[view.Backend(i).Address] = true
	}
	return used
}

// outsider is the address of a backend that is not in use.
func (h *Handler) outsider() string {
	used := h.used()
	for _, b := range h.Backends {
		if !used[b.Address] {
			return b.Address
		}
	}
	return ""
}

// insider is the address of one that is.
func (h *Handler) insider() string { return h.set().View().Backend(0).Address }

func (h *Handler) isSteady(t *testing.T, before map[string]bool, came, left int) {
	t.Helper()
	after := h.used()
	for address := range after {
		if !before[address] {
			came--
		}
	}
	for address := range before {
		if !after[address] {
			left--
		}
	}
	if came != 0 || left != 0 {
		t.Errorf("before %v, after %v", before, after)
	}
}

// Nobody outside the subset is a member of the pool, and the API lists only those inside.
func TestSubset(t *testing.T) {
	c := newConfig(t)
	h := c.serve(subsetOf(100, `{"size": 10, "peer": 1, "peers": 20}`, `, "health_check": {"type": "tcp"}`))
	if n := len(h.used()); n != 10 || len(h.service.Pool().Members()) != n {
		t.Fatalf("%d backends are used, and the pool has %d members", n, len(h.service.Pool().Members()))
	}
	var p status.Pool
	if err := json.Unmarshal([]byte(asks(t, "GET", webPath, "").body), &p); err != nil {
		t.Fatal(err)
	}
	if len(p.Backends) != 10 || p.Subset.Size != 10 || *p.Subset.Peer != 1 || p.Subset.Peers != 20 || p.Subset.Of != 100 || p.Subset.Chosen != 10 || p.Subset.Further != 0 {
		t.Errorf("%d backends are listed, with %+v", len(p.Backends), p.Subset)
	}
	for _, path := range []string{webPath + "?all=1", webPath + "/backends?all"} {
		if body := asks(t, "GET", path, "").body; strings.Count(body, `"address"`) != 100 || strings.Count(body, "outside the subset") != 90 {
			t.Errorf("%s: %s", path, body)
		}
	}
	asks(t, "GET", webPath+"/backends/"+h.outsider(), "").wants(t, http.StatusOK, "outside the subset")
	metrics := c.gathered()
	for name, want := range map[string]float64{"subset_size": 10, "subset_of": 100, "subset_further": 0} {
		if got, ok := values(metrics[name])[""]; !ok || got != want {
			t.Errorf("%s is %v", name, got)
		}
	}
	if n := len(metrics["in_flight"].GetMetric()); n != 10 {
		t.Errorf("%d backends have metrics", n)
	}
}

// Edits hold inside the subset and outside, and change as little as they can.
func TestSubsetEdits(t *testing.T) {
	for _, subset := range []string{`{"size": 10, "peer": 1, "peers": 20}`, `{"size": 10}`} {
		t.Run(subset, func(t *testing.T) {
			h := newConfig(t).serve(subsetOf(100, subset, ""))
			before := h.used()
			out := h.outsider()
			asks(t, "PATCH", webPath+"/backends/"+out, `{"state": "drain"}`).wants(t, http.StatusOK, "outside the subset")
			h.isSteady(t, before, 0, 0)
			asks(t, "GET", webPath+"/backends", "").wants(t, http.StatusOK, out) // what was edited is listed
			asks(t, "PATCH", webPath+"/backends/"+out, `{"state": null}`).wants(t, http.StatusOK, out)

			in := h.insider()
			asks(t, "PATCH", webPath+"/backends/"+in, `{"state": "drain"}`).wants(t, http.StatusOK, "draining")
			h.isSteady(t, before, 1, 0) // it stays for its sessions, and another one takes new requests
			if usable, _ := h.set().View().Snapshot().Usable(); usable != 10 {
				t.Errorf("%d are usable", usable)
			}
			asks(t, "PATCH", webPath+"/backends/"+in, `{"state": "ready"}`).wants(t, http.StatusOK, in)
			h.isSteady(t, before, 0, 0)

			asks(t, "DELETE", webPath+"/backends/"+in, "").wants(t, http.StatusNoContent, "")
			if used := h.used(); used[in] || len(used) != 10 {
				t.Errorf("without %s: %v", in, used)
			}
			asks(t, "POST", webPath+"/backends", `{"address": "`+in+`"}`).wants(t, http.StatusCreated, in)
			h.isSteady(t, before, 0, 0)
		})
	}
}

// However many backends are taken out by hand, the subset has one as long as the pool has one.
func TestSubsetIsNotEditedAway(t *testing.T) {
	h := newConfig(t).serve(subsetOf(40, `{"size": 2}`, ""))
	last := h.outsider()
	for _, b := range h.Backends {
		if b.Address != last {
			asks(t, "PATCH", webPath+"/backends/"+b.Address, `{"state": "maintenance"}`).wants(t, http.StatusOK, b.Address)
		}
	}
	if !h.used()[last] || shares(t, h, 10)[last] != 10 {
		t.Errorf("%s is left, and not used: %v", last, h.used())
	}
}

// Primaries, backups and both sides of a zone's border have a subset each.
func TestSubsetOfEachKind(t *testing.T) {
	var all []string
	for i := range 90 {
		all = append(all, fmt.Sprintf(`{"address": "127.1.0.%d:1", "zone": "z%d", "backup": %d}`, i, i%3, i%2))
	}
	for zone, want := range map[string]int{"": 6, "z1": 12} {
		h := newConfig(t).mustLoad(`{"subset": {"size": 3}, "prefer_zone": "` + zone + `", "backends": [` + strings.ReplaceAll(strings.Join(all, ","), `"backup": 0`, `"backup": false`) + `]}`)
		count := make(map[string]int)
		view := h.set().View()
		for i := range view.Len() {
			b := view.Backend(i)
			count[fmt.Sprint(b.Backup, zone != "" && b.Zone == zone)]++
		}
		if view.Len() != want {
			t.Errorf("zone %q: %v", zone, count)
		}
		for kind, n := range count {
			if n != 3 {
				t.Errorf("zone %q: %d of kind %s", zone, n, kind)
			}
		}
	}
}

// A reload that changes the size keeps the state of the backends that stay.
func TestSubsetAfterReload(t *testing.T) {
	dir := newDir(t)
	h := newConfigIn(t, dir).serve(subsetOf(100, `{"size": 10, "peer": 1, "peers": 20}`, ""))
	before := h.used()
	shares(t, h, 100)
	h = newConfigIn(t, dir).serve(subsetOf(100, `{"size": 20, "peer": 1, "peers": 20}`, ""))
	h.isSteady(t, before, 10, 0)
	for _, b := range h.overview().Backends {
		if before[b.Address] != (b.Requests > 0) {
			t.Errorf("%s had %d requests", b.Address, b.Requests)
		}
	}
}

// die makes all members of the set that those selects fail for good.
func die(t *testing.T, h *Handler, those func(address string) bool) {
	t.Helper()
	view := h.set().View()
	for i := range view.Len() {
		if !those(view.Backend(i).Address) {
			continue
		}
		for range 5 {
			l, ok := view.AcquireMember(i)
			if !ok {
				t.Fatal("no slot")
			}
			l.Judge(pool.Verdict{Outcome: pool.Failure, Refused: true}, time.Now())
			l.Release()
		}
	}
}

// While no backend in the subset is usable, others are used, also by a config that is loaded at that time.
func TestSubsetGoesOn(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	const hold = `, "hold": {"disabled": true}`
	h := c.serve(subsetOf(100, `{"size": 5}`, hold))
	own := h.used()
	die(t, h, func(string) bool { return true })
	started := time.Now()
	eventually(t, "other backends to be used", func() bool { return len(h.used()) == 10 })
	if took := time.Since(started); took < 900*time.Millisecond {
		t.Errorf("went on after %v", took)
	}
	for address := range own {
		if !h.used()[address] {
			t.Errorf("%s is not watched any more", address)
		}
	}
	for address := range shares(t, h, 20) {
		if own[address] {
			t.Errorf("%s is dead and was chosen", address)
		}
	}
	if s := h.overview().Subset; s.Chosen != 5 || s.Further != 5 || !strings.Contains(c.logged(), "no backend of the subset is usable") {
		t.Errorf("%+v; log: %s", s, c.logged())
	}
	beyond := h.used()
	// And further, if those are gone, too.
	die(t, h, func(address string) bool { return !own[address] })
	eventually(t, "other backends to be used", func() bool {
		for address := range h.used() {
			if !beyond[address] {
				return true
			}
		}
		return false
	})
	beyond = h.used()
	next := newConfigIn(t, dir).serve(subsetOf(100, `{"size": 5}`, hold))
	next.isSteady(t, beyond, 0, 0)
}

// Numbers of the fleet come from the environment when the config is loaded.
func TestSubsetPlaceholders(t *testing.T) {
	t.Setenv("BALLAST_ORDINAL", "3")
	t.Setenv("BALLAST_WRONG", "many")
	file := newDir(t) + "/peers"
	if err := os.WriteFile(file, []byte("20\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newConfig(t).mustLoad(subsetOf(100, `{"size": 10, "peer": "{env.BALLAST_ORDINAL}", "peers": "{file.`+file+`}"}`, ""))
	if s := h.overview().Subset; *s.Peer != 3 || s.Peers != 20 {
		t.Errorf("%+v", s)
	}
	for subset, want := range map[string]string{
		`{"size": 10, "peer": "{env.BALLAST_WRONG}", "peers": 20}`:   `subset: peer {env.BALLAST_WRONG}, which is "many": must be a whole number from 0 to 65535`,
		`{"size": 10, "peer": "{env.BALLAST_NOTHING}", "peers": 20}`: `subset: peer {env.BALLAST_NOTHING}, which is "": must be a whole number from 0 to 65535`,
		`{"size": 10, "peer": "{env.BALLAST_ORDINAL}", "peers": 3}`:  `subset: peer {env.BALLAST_ORDINAL}, which is "3": must be from 0 to 2`,
		`{"size": 10, "peer": 20, "peers": 20}`:                      "subset: peer 20: must be from 0 to 19",
		`{"size": 10, "peer": 2}`:                                    "subset: peers: missing",
		`{"size": 10, "peers": 2}`:                                   "subset: peer: missing",
		`{"size": 10, "peer": "x", "peers": 2}`:                      `subset: peer "x": must be a whole number`,
		`{"size": 10, "peer": 1.5, "peers": 2}`:                      `subset: peer 1.5: must be a whole number`,
		`{}`:                                                         "subset: size 0: must be from 1 to 65536",
		`{"size": 1.5}`:                                              "subset: size 1.5: must be a whole number from 1 to 65536",
		`20`:                                                         "subset 20: must be an object",
	} {
		_, err := newConfig(t).load(subsetOf(100, subset, ""))
		expectError(t, err, want)
	}
	_, err := newConfig(t).load(`{"subset": {"size": 3}, "dynamic_upstreams": {"source": "a", "name": "{http.request.host}", "port": "80"}}`)
	expectError(t, err, "subset: the dynamic source is asked for each request")
}

// What clients take with them from one balancer to another does not fit subsets.
func TestSubsetWarnings(t *testing.T) {
	for policy, want := range map[string]string{
		`{"policy": "lb_sticky", "secrets": ["0123456789abcdef"]}`: "subset with sticky sessions",
		`{"policy": "cookie"}`:                      "subset with sticky sessions",
		`{"policy": "lb_hash", "keys": ["{path}"]}`: "subset with a policy that hashes",
		`{"policy": "client_ip_hash"}`:              "subset with a policy that hashes",
		`{"policy": "lb_p2c"}`:                      "",
	} {
		h := newConfig(t).mustLoad(subsetOf(100, `{"size": 10}`, `, "load_balancing": {"selection_policy": `+policy+`}`))
		got := strings.Join(h.service.Warnings(), "\n")
		if want == "" && strings.Contains(got, "subset") || !strings.Contains(got, want) {
			t.Errorf("%s: warnings %q", policy, got)
		}
	}
}

// BenchmarkSubsetEdit is the cost of an edit in a pool of 10,000 backends.
func BenchmarkSubsetEdit(b *testing.B) {
	for name, size := range map[string]int{"all": 10_000, "100": 100} {
		b.Run(name, func(b *testing.B) {
			h := newConfig(b).serve(subsetOf(10_000, fmt.Sprintf(`{"size": %d}`, size), ""))
			in := h.insider()
			for i := 0; b.Loop(); i++ {
				asks(b, "PATCH", webPath+"/backends/"+in, fmt.Sprintf(`{"weight": %d}`, 1+i%2))
			}
		})
	}
}

// A subset may be one of a list that a file names, and a change of the list leaves those in the subset that are still there.
func TestSubsetOfFile(t *testing.T) {
	c := newConfig(t)
	list := filepath.Join(newDir(t), "list.json")
	write := func(targets int) {
		t.Helper()
		all := make([]string, targets)
		for i := range all {
			all[i] = fmt.Sprintf(`"127.2.0.%d:1"`, i)
		}
		if err := os.WriteFile(list, []byte(`[{"targets": [`+strings.Join(all, ",")+`], "labels": {"weight": "2"}}]`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(40)
	h := c.mustLoad(`{"name": "web", "subset": {"size": 10, "peer": 1, "peers": 4}, "dynamic_upstreams": {"source": "lb_file", "path": "` + list + `"}}`)
	c.start()
	look := func() (s status.Subset) {
		for _, p := range c.app().Overview() {
			s = *p.Subset
		}
		return s
	}
	eventually(t, "a subset of the list", func() bool { return look().Of == 40 && look().Chosen == 10 })
	before := h.service.Pool().Members()
	write(41)
	eventually(t, "a subset of the longer list", func() bool { return look().Of == 41 })
	kept := 0
	for _, m := range h.service.Pool().Members() {
		if slices.Contains(before, m) {
			kept++
		}
	}
	if chosen := look().Chosen; kept < 8 || chosen < 10 || chosen > 11 {
		t.Errorf("%d of 10 members are still there, of %d", kept, chosen)
	}
}
