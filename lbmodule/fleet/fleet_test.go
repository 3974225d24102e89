package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/certmagic"
)

// storage is a storage that counts, and fails on demand.
type storage struct {
	*certmagic.FileStorage
	mu     sync.Mutex
	fails  error
	writes int
}

func newStorage(t *testing.T) *storage {
	return &storage{FileStorage: &certmagic.FileStorage{Path: t.TempDir()}}
}

func (s *storage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

func (s *storage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	s.writes++
	err := s.fails
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	s.mu.Lock()
	err := s.fails
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.FileStorage.List(ctx, prefix, recursive)
}

func (s *storage) documents(t *testing.T) int {
	t.Helper()
	keys, err := s.FileStorage.List(t.Context(), folder, false)
	if err != nil {
		t.Fatal(err)
	}
	return len(keys)
}

// node is a process: a Fleet, and the config that it serves.
type node struct {
	*Fleet
	storage certmagic.Storage
	stop    context.CancelFunc
	logs    *observer.ObservedLogs

	mu    sync.Mutex
	pools []Pool
	asked int // how often the pools were described
}

func (n *node) Storage() certmagic.Storage { return n.storage }
func (n *node) Serving() bool              { return true }

func (n *node) Describe(pools bool) Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	o := Node{Name: "host", Version: "v1", Config: "c"}
	if pools {
		n.asked++
		for _, p := range n.pools {
			p.Backends = append([]Backend(nil), p.Backends...)
			o.Pools = append(o.Pools, p)
		}
	}
	return o
}

func (n *node) set(pools ...Pool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pools = pools
}

// start starts a node, which ends with the test.
func start(t *testing.T, s certmagic.Storage, identity string) *node {
	core, logs := observer.New(zap.InfoLevel)
	ctx, cancel := context.WithCancel(t.Context())
	n := &node{Fleet: New(identity), storage: s, stop: cancel, logs: logs}
	n.set(web(fine("a"), fine("b")))
	go n.Run(ctx, n, zap.New(core))
	return n
}

func fine(name string) Backend {
	return Backend{Name: name, Address: name + ":1", State: "ready", Usable: true, Health: "up", Breaker: "closed", Weight: 1}
}

func web(backends ...Backend) Pool {
	return Pool{Name: "web", State: "ok", Usable: len(backends), Total: len(backends), Members: fmt.Sprint(len(backends)), Backends: backends}
}

// pass lets that much time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// states returns the states of the other nodes.
func (n *node) states() string {
	var all []string
	for _, o := range n.View().Nodes {
		if !o.This {
			all = append(all, o.State)
		}
	}
	return strings.Join(all, " ")
}

func (n *node) wants(t *testing.T, what, states string) {
	t.Helper()
	if got := n.states(); got != states {
		t.Errorf("%s: the others are %q, want %q", what, got, states)
	}
}

// Nodes see each other; one that ends without a word is gone after a while, and its document after an hour; one that leaves is away at once.
func TestLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		a, b, c := start(t, s, "a"), start(t, s, "b"), start(t, s, "c")
		pass(15 * time.Second)
		for _, n := range []*node{a, b, c} {
			n.wants(t, "at first", "alive alive")
			if alive, gone := n.Count(); alive != 3 || gone != 0 {
				t.Errorf("%d alive, %d gone", alive, gone)
			}
			for _, o := range n.View().Nodes {
				if o.Alone || len(o.Pools) != 1 || len(o.Pools[0].Backends) != 2 {
					t.Errorf("%s tells %+v", o.Label, o.Node)
				}
			}
		}
		c.stop()
		pass(30 * time.Second)
		a.wants(t, "after 30 s", "alive alive")
		pass(35 * time.Second)
		a.wants(t, "after 65 s", "alive gone")
		if alive, gone := a.Count(); alive != 2 || gone != 1 {
			t.Errorf("%d alive, %d gone", alive, gone)
		}
		pass(50 * time.Minute)
		if got := s.documents(t); got != 3 {
			t.Errorf("%d documents before the hour is over", got)
		}
		pass(10 * time.Minute)
		a.wants(t, "after an hour", "alive")
		if got := s.documents(t); got != 2 {
			t.Errorf("%d documents after an hour", got)
		}
		b.stop()
		if err := b.Leave(t.Context(), s); err != nil {
			t.Error(err)
		}
		pass(6 * time.Second)
		a.wants(t, "after another has left", "")
		if !a.View().Nodes[0].Alone {
			t.Error("the last does not know that it is alone")
		}
		a.stop()
	})
}

// A node that is alone writes little and describes no pools; one with others writes at once when something changes, and else as seldom.
func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		a := start(t, s, "a")
		pass(10 * time.Minute)
		if n := s.count(); n < 35 || n > 50 {
			t.Errorf("%d writes in 10 minutes alone, want about 40", n)
		}
		if a.asked > 0 {
			t.Error("the pools were described, but nobody would have read it")
		}
		b := start(t, s, "b")
		pass(time.Minute)
		before := s.count()
		pass(10 * time.Minute)
		if n := s.count() - before; n < 70 || n > 100 {
			t.Errorf("%d writes of two in 10 minutes, want about 80", n)
		}
		bad := fine("a")
		bad.Usable, bad.Reason = false, "cannot be reached"
		busy := fine("b")
		busy.Requests, busy.InFlight = 100, 3
		a.set(web(bad, busy))
		pass(11*time.Second + 100*time.Millisecond) // two looks, and their jitter
		d := b.View().Differences
		if len(d) != 1 || d[0].Kind != DiffersUsable || d[0].Backend != "a" {
			t.Errorf("differences %+v", d)
		}
		a.stop()
		b.stop()
	})
}

// A failure of the storage is logged once, shown, and retried; no node counts as gone meanwhile.
func TestStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		a, b := start(t, s, "a"), start(t, s, "b")
		pass(20 * time.Second)
		s.fail(errors.New("refused"))
		pass(10 * time.Minute)
		a.wants(t, "while the storage fails", "alive")
		v := a.View()
		if v.Error != "reading: refused" || v.Age < 500 {
			t.Errorf("error %q, age %v", v.Error, v.Age)
		}
		if n := a.logs.Len(); n != 2 {
			t.Errorf("logged %d times: %v", n, a.logs.All())
		}
		before := s.count()
		pass(time.Hour)
		if n := s.count() - before; n < 12 || n > 30 {
			t.Errorf("%d attempts of two in an hour, want one each 5 minutes", n)
		}
		s.fail(nil)
		pass(6 * time.Minute)
		if v := a.View(); v.Error != "" || v.Age > 6 || a.states() != "alive" || b.states() != "alive" {
			t.Errorf("afterwards: error %q, age %v, the others %q and %q", v.Error, v.Age, a.states(), b.states())
		}
		if n := a.logs.Len(); n != 4 {
			t.Errorf("logged %d times: %v", n, a.logs.All())
		}
		a.stop()
		b.stop()
	})
}

// Processes with one identity get different IDs. A restarted process has the ID of the one before.
func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		a := start(t, s, "same")
		pass(2 * time.Second)
		b := start(t, s, "same")
		pass(30 * time.Second)
		a.wants(t, "one", "alive")
		b.wants(t, "the other", "alive")
		a.stop()
		b.stop()
		again := start(t, s, "same")
		pass(10 * time.Second)
		if got := again.View().Nodes[0].ID; got != New("same").id {
			t.Errorf("ID %s after a start, want %s", got, New("same").id)
		}
		again.stop()
	})
}

// A clock that is far off makes no node gone that writes; documents that make no sense are left alone.
func TestOddDocuments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		for key, text := range map[string]string{
			"nonsense.json": "{", "empty.json": "", "null.json": "null", "other.json": `{"format": "x", "schema": 1, "id": "y"}`,
			"later.json": `{"format": "ballast node", "schema": 2, "id": "z"}`, "readme.txt": "hello",
		} {
			if err := s.Store(t.Context(), folder+"/"+key, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		a := start(t, s, "a")
		write := func(id string, beat uint64, written time.Time) {
			raw, err := encode(&Node{ID: id, Name: id, Boot: "x", Beat: beat, Period: 5, Written: written, Alone: true})
			if err == nil {
				err = s.Store(t.Context(), folder+"/"+id+".json", raw)
			}
			if err != nil {
				t.Error(err)
			}
		}
		for beat := range uint64(8) {
			write("early", beat, time.Now().Add(-3*time.Hour))
			write("late", beat, time.Now().Add(3*time.Hour))
			pass(15 * time.Second)
		}
		a.wants(t, "with clocks that are off", "alive alive")
		pass(2 * time.Hour)
		a.wants(t, "after their end", "")
		if got := s.documents(t); got != 7 {
			t.Errorf("%d documents, want 6 that make no sense and one", got)
		}
		if v := a.View(); v.Error != "" {
			t.Error(v.Error)
		}
		a.stop()
	})
}
