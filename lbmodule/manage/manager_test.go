package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// group is a load balancer with these backends.
type group struct {
	m         *Manager
	owner     *owner
	addresses []string
	view      *pool.View
}

func (g *group) Config() (all []overlay.Backend) {
	for _, address := range g.addresses {
		all = append(all, overlay.Backend{Address: address, Name: address, Settings: overlay.Settings{Weight: 1, State: overlay.Ready}})
	}
	return all
}

func (g *group) Apply() []pool.Event {
	before := g.view
	var all []pool.Backend
	for _, b := range g.m.Running(g, time.Now()) {
		all = append(all, pool.Backend{Address: b.Address, Weight: b.Weight})
	}
	var events []pool.Event
	g.view, events = g.m.Pool().OpenQuietly(all, pool.Settings{Policy: balance.RoundRobin{}})
	if before != nil {
		before.Close()
	}
	return events
}

func (*group) Dynamic() bool               { return false }
func (*group) DrainTimeout() time.Duration { return 0 }
func (g *group) Owner() Owner              { return g.owner }

// owner is a config.
type owner struct {
	storage certmagic.Storage

	mu   sync.Mutex
	told []Notice
}

func (o *owner) Storage() certmagic.Storage { return o.storage }

func (o *owner) Tell(n Notice) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told = append(o.told, n)
}

// hears waits until the owner has been told something of which is is true.
func (o *owner) hears(t *testing.T, what string, is func(Notice) bool) {
	t.Helper()
	eventually(t, what, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, n := range o.told {
			if is(n) {
				return true
			}
		}
		return false
	})
}

// serve has a config serve that has these backends in the pool of that name.
func serve(t *testing.T, storage certmagic.Storage, name string, addresses ...string) (*Manager, *owner) {
	t.Helper()
	m := Acquire(t.Context(), name, storage, zap.NewNop())
	o := &owner{storage: storage}
	g := &group{m: m, owner: o, addresses: addresses}
	m.Attach(g)
	m.Serve(o)
	t.Cleanup(func() {
		m.Unserve(o)
		m.Detach(g)
		g.view.Close()
		m.Release()
	})
	return m, o
}

// reweigh gives a backend another weight, and returns the number of the edits then.
func reweigh(t *testing.T, m *Manager, address string, weight int) uint64 {
	t.Helper()
	number, err := m.Change(func(e *Edits, _ Group) (*overlay.Overlay, error) {
		return e.Edit(address, []overlay.Edit{{Field: overlay.Weight, Value: weight}}, nil), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// slowStorage is a storage whose locks are waited for until they are released, and which may refuse to be written.
type slowStorage struct {
	certmagic.Storage
	mu      sync.Mutex
	held    chan struct{} // closed to let locks be had; nil if they can
	refuses error
	waiting int
}

func (s *slowStorage) Lock(ctx context.Context, name string) error {
	s.mu.Lock()
	held, refuses := s.held, s.refuses
	s.waiting++
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if refuses != nil {
		return refuses
	}
	return s.Storage.Lock(ctx, name)
}

func (s *slowStorage) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = err
}

// An edit is not called written because another node has written something.
func TestPersistedIsOwn(t *testing.T) {
	storage := &slowStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}, held: make(chan struct{})}
	m, o := serve(t, storage, "own", "a:1", "b:1")
	reweigh(t, m, "b:1", 5)
	eventually(t, "the write to wait for the lock", func() bool {
		storage.mu.Lock()
		defer storage.mu.Unlock()
		return storage.waiting == 1
	})
	// Another node writes, a much higher version, while this one waits.
	theirs := new(overlay.Overlay).Edit("a:1", []overlay.Edit{{Field: overlay.Weight, Value: 9}}, nil)
	theirs.Version = 1000
	raw, err := overlay.Encode("own", "theirs", "other node", theirs, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.Store(t.Context(), stateKey("own"), raw); err != nil {
		t.Fatal(err)
	}
	number := reweigh(t, m, "b:1", 6)
	answer := make(chan bool, 1)
	go func() { answer <- m.Written(number, time.Minute) }()
	close(storage.held)
	if !<-answer {
		t.Fatal("it was not written")
	}
	raw, err = storage.Load(t.Context(), stateKey("own"))
	if err != nil {
		t.Fatal(err)
	}
	kept, _, err := overlay.Decode("own", raw)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(kept.Backends["a:1"].Edits[0].Value, kept.Backends["b:1"].Edits[0].Value)
	if got != "9 6" || kept.Version <= 1000 {
		t.Errorf("in storage %s, version %d", got, kept.Version)
	}
	o.hears(t, "word of the storage", func(n Notice) bool { s, is := n.(Synced); return is && s.Err == nil && s.Pool == "own" })
}

// That edits cannot be written is told once, and so is that they can be again.
func TestWritingTurns(t *testing.T) {
	storage := &slowStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	refused := errors.New("refused")
	storage.refuse(refused)
	m, o := serve(t, storage, "turns", "a:1")
	if number := reweigh(t, m, "a:1", 2); m.Written(number, time.Minute) {
		t.Error("called written")
	}
	if number := reweigh(t, m, "a:1", 3); m.Written(number, time.Minute) {
		t.Error("called written")
	}
	eventually(t, "another try", func() bool {
		storage.mu.Lock()
		defer storage.mu.Unlock()
		return storage.waiting >= 2
	})
	storage.refuse(nil)
	number := reweigh(t, m, "a:1", 4)
	eventually(t, "it to be written", func() bool { return m.Written(number, time.Minute) })
	o.hears(t, "the end", func(n Notice) bool { s, is := n.(Synced); return is && s.Writing == Ended })
	o.mu.Lock()
	defer o.mu.Unlock()
	var turns []Turn
	for _, n := range o.told {
		s := n.(Synced)
		if s.Writing != Unchanged {
			turns = append(turns, s.Writing)
		}
		if s.Writing == Began && !errors.Is(s.Err, refused) {
			t.Errorf("told of %v, want %v", s.Err, refused)
		}
	}
	if !slices.Equal(turns, []Turn{Began, Ended}) {
		t.Errorf("told of %v, want began and ended", turns)
	}
}

// Without a config that serves nothing is changed.
func TestChangeAfterTheEnd(t *testing.T) {
	m := Acquire(t.Context(), "ended", &certmagic.FileStorage{Path: t.TempDir()}, zap.NewNop())
	defer m.Release()
	_, err := m.Change(func(*Edits, Group) (*overlay.Overlay, error) {
		t.Error("asked for a change")
		return nil, nil
	})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("%v, want %v", err, ErrEnded)
	}
}
