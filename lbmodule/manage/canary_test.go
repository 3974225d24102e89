package manage

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/canary"
)

// canaryNode is a node with a canary, and a clock of its own.
type canaryNode struct {
	*Canary
	t       *testing.T
	run     *canary.Run
	storage certmagic.Storage
	now     time.Time
}

// canarySettings has steps after a minute and another one.
func canarySettings() canary.Settings {
	return canary.Settings{Share: 0.05, Steps: []canary.Step{{Share: 0.25, After: time.Minute}, {Share: 0.5, After: time.Minute}}, Errors: true}
}

// hatch starts a node. Each has managers, and so a process, of its own.
func hatch(t *testing.T, storage certmagic.Storage, pool, description string) *canaryNode {
	t.Helper()
	m := newManager(pool)
	t.Cleanup(func() { pools.Release(m.pool) })
	n := &canaryNode{t: t, run: canary.New(pool, canarySettings()), storage: storage, now: time.Unix(1e9, 0)}
	c, release := m.Canary(t.Context(), n.run, description, storage, zap.NewNop())
	t.Cleanup(release)
	n.Canary = c
	n.run.Watch(n.now)
	return n
}

// pass has time pass, second by second, without a look at the storage.
func (n *canaryNode) pass(d time.Duration) {
	for end := n.now.Add(d); n.now.Before(end); {
		n.now = n.now.Add(time.Second)
		n.run.Watch(n.now)
	}
}

func (n *canaryNode) do(a canary.Action, share float64) {
	n.t.Helper()
	if _, err := n.run.Do(a, share, "", n.now); err != nil {
		n.t.Fatal(err)
	}
}

// keep is Keep, which must succeed.
func (n *canaryNode) keep() Kept {
	n.t.Helper()
	k := n.Keep(n.t.Context(), n.storage)
	if k.Err != nil {
		n.t.Fatal(k.Err)
	}
	return k
}

func (n *canaryNode) is(state canary.State, share float64) {
	n.t.Helper()
	if s := n.run.Standing(); s.State != state || s.Share != share {
		n.t.Fatalf("%v %v, want %v %v", s.State, s.Share, state, share)
	}
}

func document(t *testing.T, storage certmagic.Storage, pool string) *canaryDocument {
	t.Helper()
	raw, err := storage.Load(t.Context(), storageKey("canaries", pool))
	if err != nil {
		t.Fatal(err)
	}
	d, err := decodeCanary(pool, raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Nodes step together: the first one whose time has come makes the step, and the others follow it instead of making one.
func TestCanaryStepsTogether(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	a, b := hatch(t, storage, "steps", "x"), hatch(t, storage, "steps", "x")
	if k := a.keep(); k.Changes != nil || storage.Exists(t.Context(), a.key) {
		t.Error("a canary of which nothing is to be told is written")
	}
	a.pass(time.Minute)
	b.pass(time.Minute)
	a.is(canary.Running, 0.05)
	if k := a.keep(); len(k.Changes) != 1 || k.Changes[0].Elsewhere || k.Changes[0].Reason != canary.ReasonStep {
		t.Errorf("%+v", k)
	}
	b.is(canary.Running, 0.05)
	b.node = "" // both are this process
	if k := b.keep(); len(k.Changes) != 1 {
		t.Errorf("%+v", k)
	}
	a.is(canary.Running, 0.25)
	b.is(canary.Running, 0.25)
	if d := document(t, storage, "steps"); d.Number != 1 || d.Next != 1 || d.Waited != 0 {
		t.Errorf("%+v", d)
	}
	b.pass(time.Minute)
	b.keep()
	a.keep()
	a.is(canary.Finished, 0.5)
	if k := a.keep(); k.Changes != nil {
		t.Errorf("taken over twice: %+v", k)
	}
}

// A roll back is in force at all nodes, whatever else they do at the same time, and after a restart. Starting it again is, too.
func TestCanaryRollBackOfNodes(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	a, b := hatch(t, storage, "back", "x"), hatch(t, storage, "back", "x")
	a.do(canary.RollBack, 0)
	if !a.Pending() {
		t.Error("nothing to write")
	}
	if a.keep(); a.Pending() {
		t.Error("not written")
	}
	b.pass(time.Minute) // its step is due
	b.keep()
	b.is(canary.RolledBack, 0)
	if s := b.run.Standing(); s.Reason != canary.ReasonByHand {
		t.Errorf("%+v", s)
	}
	restarted := hatch(t, storage, "back", "x")
	restarted.is(canary.RolledBack, 0)
	if n := restarted.run.RollBacks(); n > 1 {
		t.Errorf("%d roll backs", n)
	}
	other := hatch(t, storage, "back", "other settings")
	other.is(canary.Running, 0.05)

	late := hatch(t, storage, "back", "x")
	b.do(canary.Restart, 0)
	b.keep()
	late.keep()
	late.is(canary.Running, 0.05)
	a.do(canary.RollBack, 0) // both begin from what a has not seen
	a.keep()
	if d := document(t, storage, "back"); d.State != "rolled_back" || d.Number != 3 {
		t.Errorf("%+v", d)
	}
}

// At the same time one node rolls back and another one gets a share by hand: the canary is off.
func TestCanaryRollBackWins(t *testing.T) {
	for _, first := range []int{0, 1} {
		storage := &certmagic.FileStorage{Path: t.TempDir()}
		nodes := []*canaryNode{hatch(t, storage, "wins", "x"), hatch(t, storage, "wins", "x")}
		nodes[0].do(canary.RollBack, 0)
		nodes[1].do(canary.SetShare, 0.7)
		for _, i := range []int{first, 1 - first, first} {
			nodes[i].keep()
		}
		nodes[0].is(canary.RolledBack, 0)
		nodes[1].is(canary.RolledBack, 0)
	}
}

// What another config has written is overwritten by the next change, and not before.
func TestCanaryOfAnotherConfig(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	a := hatch(t, storage, "anew", "x")
	a.do(canary.RollBack, 0)
	a.keep()
	b := hatch(t, storage, "anew", "y")
	b.keep()
	if d := document(t, storage, "anew"); d.Settings != a.settings {
		t.Error("written without a change")
	}
	b.pass(time.Minute)
	b.keep()
	b.is(canary.Running, 0.25)
	if d := document(t, storage, "anew"); d.Settings != b.settings || d.Number != 2 {
		t.Errorf("%+v", d)
	}
	a.keep()
	a.is(canary.RolledBack, 0)
	if d := document(t, storage, "anew"); d.Settings != b.settings {
		t.Error("two configs write in turns")
	}
}

// An unreadable document counts as missing, is logged once, and is written again; one of a later version is left alone.
func TestCanaryDocumentsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	storage := &certmagic.FileStorage{Path: dir}
	first := hatch(t, storage, "broken", "x")
	first.do(canary.RollBack, 0)
	first.keep()
	file := filepath.Join(dir, filepath.FromSlash(first.key))
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	with := func(field string, value any) string {
		var d map[string]any
		if err := json.Unmarshal(good, &d); err != nil {
			t.Fatal(err)
		}
		d[field] = value
		raw, _ := json.Marshal(d)
		return string(raw)
	}
	for name, text := range map[string]string{
		"empty": "", "half": string(good[:len(good)/2]), "null": "null", "large": string(good) + strings.Repeat(" ", maxCanary),
		"other pool": with("pool", "x"), "other format": with("format", "x"), "no number": with("number", 0), "state": with("state", "lost"),
		"reason": with("reason", "<script>"), "waited": with("waited", 1e300), "negative": with("waited", -1), "type": with("share", "x"),
		"share": strings.Replace(with("share", 0.5), `"number":1`, `"number":9`, 1), "next": strings.Replace(with("next", 99), `"number":1`, `"number":9`, 1),
		"end of numbers": with("number", uint64(1<<63)),
	} {
		put(text)
		n := hatch(t, storage, "broken", "x")
		n.is(canary.Running, 0.05)
		n.pass(time.Minute)
		n.keep()
		n.is(canary.Running, 0.25)
		if d := document(t, storage, "broken"); d.State != "running" || d.Share != 0.25 {
			t.Errorf("%s: %+v", name, d)
		}
		put(text) // while it serves
		told := 0
		for range 3 {
			if n.keep().Broken != nil {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%s: told of %d times", name, told)
		}
		if d := document(t, storage, "broken"); d.Share != 0.25 {
			t.Errorf("%s: not written again: %+v", name, d)
		}
	}
	later := with("schema", 2)
	put(later)
	n := hatch(t, storage, "broken", "x")
	n.pass(time.Minute)
	if k := n.Keep(t.Context(), storage); !errors.Is(k.Err, errLater) || len(k.Changes) != 1 {
		t.Errorf("%+v", k)
	}
	n.is(canary.Running, 0.25)
	if now, _ := os.ReadFile(file); string(now) != later {
		t.Errorf("overwritten with %s", now)
	}
}

// failing is a storage that fails where it is told to.
type failing struct {
	certmagic.Storage
	store, lock error
}

func (f *failing) Store(ctx context.Context, key string, value []byte) error {
	if f.store != nil {
		return f.store
	}
	return f.Storage.Store(ctx, key, value)
}

func (f *failing) Lock(ctx context.Context, name string) error {
	if f.lock != nil {
		return f.lock
	}
	return f.Storage.Lock(ctx, name)
}

// While the storage fails, a node goes on by itself, and says so once. Then what it has is written. Without a lock it works all the same.
func TestCanaryWithoutStorage(t *testing.T) {
	storage := &failing{Storage: &certmagic.FileStorage{Path: t.TempDir()}, store: errors.New("full"), lock: errors.New("no locks")}
	n := hatch(t, storage, "failing", "x")
	n.pass(time.Minute)
	for i, want := range []Turn{Began, Unchanged} {
		if k := n.Keep(t.Context(), storage); k.Err == nil || k.Turn != want {
			t.Errorf("%d: %+v", i, k)
		}
	}
	n.is(canary.Running, 0.25)
	storage.store = nil
	if k := n.keep(); k.Turn != Ended {
		t.Errorf("%+v", k)
	}
	if d := document(t, storage, "failing"); d.Share != 0.25 || d.Number != 1 {
		t.Errorf("%+v", d)
	}
	if err := storage.Delete(t.Context(), n.key); err != nil {
		t.Fatal(err)
	}
	n.keep()
	if d := document(t, storage, "failing"); d.Share != 0.25 || d.Number != 1 {
		t.Errorf("what is lost is not written again: %+v", d)
	}
}
