package manage

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// join adds a node, which is a manager of its own, to those that share the storage.
func join(t *testing.T, storage certmagic.Storage, pool, node string) *Manager {
	t.Helper()
	m, o := newManager(node), &owner{storage: storage}
	m.keeper = newKeeper(pool, m.endRound)
	g := &group{m: m, owner: o, addresses: []string{"a:1", "b:1"}}
	m.Attach(g)
	m.Serve(o)
	t.Cleanup(func() {
		m.Unserve(o)
		m.Detach(g)
		g.view.Close()
		pools.Release(m.pool)
	})
	return m
}

var errChanged = errors.New("changed meanwhile")

// weigh gives a backend the weight to if it has the weight from.
func weigh(ctx context.Context, m *Manager, address string, from, to int) error {
	_, err := m.ChangeAgreed(ctx, func(e *Edits, g Group) (*overlay.Overlay, error) {
		if weightOf(e, g, address) != from {
			return nil, errChanged
		}
		return e.Edit(address, []overlay.Edit{{Field: overlay.Weight, Value: to}}, nil), nil
	})
	return err
}

func weightOf(e *Edits, g Group, address string) int {
	for _, b := range e.Running(g.Config(), time.Now()) {
		if b.Address == address {
			return b.Weight
		}
	}
	return -1
}

func (m *Manager) weight(address string) int { return weightOf(m.Edits(), m.Groups()[0], address) }

// Of nodes that count with a weight, none loses a step, while others are edited without a condition.
func TestAgreedChangesOfNodes(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	const nodes, each = 3, 20
	var steps, noise sync.WaitGroup
	stop := make(chan struct{})
	for _, name := range []string{"agree-1", "agree-2", "agree-3"} {
		m := join(t, storage, "agree", name)
		steps.Go(func() {
			for range each {
				for { // bound: a step fails only because another one succeeded
					now := m.weight("a:1")
					err := weigh(t.Context(), m, "a:1", now, now+1)
					if err == nil {
						break
					}
					if !errors.Is(err, errChanged) {
						t.Error(err)
						return
					}
				}
			}
		})
		noise.Go(func() {
			for i := 1; ; i++ {
				reweigh(t, m, "b:1", 1+i%9)
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
				}
			}
		})
	}
	steps.Wait()
	close(stop)
	noise.Wait()
	last := join(t, storage, "agree", "agree-4")
	if err := weigh(t.Context(), last, "a:1", 1+nodes*each, 100); err != nil {
		t.Errorf("weight is not %d: %v", 1+nodes*each, err)
	}
}

// A change that is refused takes over what others have changed, so that whoever asks next knows it.
func TestRefusedChangeLearns(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	one, two, three := join(t, storage, "learn", "learn-1"), join(t, storage, "learn", "learn-2"), join(t, storage, "learn", "learn-3")
	if err := weigh(t.Context(), one, "a:1", 1, 5); err != nil {
		t.Fatal(err)
	}
	if err := weigh(t.Context(), two, "a:1", 1, 6); !errors.Is(err, errChanged) {
		t.Errorf("a stale change: %v", err)
	}
	if got := two.weight("a:1"); got != 5 {
		t.Errorf("weight %d after a refused change, want 5", got)
	}
	if err := weigh(t.Context(), three, "a:1", 9, 6); !errors.Is(err, errChanged) {
		t.Errorf("a change that is stale here and in storage: %v", err)
	}
	if got := three.weight("a:1"); got != 5 {
		t.Errorf("weight %d after a change that was refused without the lock, want 5", got)
	}
	// What looks stale here may be what is in storage.
	if err := weigh(t.Context(), one, "a:1", 5, 7); err != nil {
		t.Fatal(err)
	}
	if err := weigh(t.Context(), three, "a:1", 9, 6); !errors.Is(err, errChanged) {
		t.Errorf("another change that is stale: %v", err)
	}
	if got := three.weight("a:1"); got != 7 {
		t.Errorf("weight %d after another change that was refused, want 7", got)
	}
	if err := weigh(t.Context(), two, "a:1", 7, 8); err != nil {
		t.Errorf("a change that fits what is in storage: %v", err)
	}
	if got := two.weight("a:1"); got != 8 {
		t.Errorf("weight %d, want 8", got)
	}
}

// hookedStorage does something whenever it is read.
type hookedStorage struct {
	certmagic.Storage
	onLoad func()
}

func (s *hookedStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if s.onLoad != nil {
		s.onLoad()
	}
	return s.Storage.Load(ctx, key)
}

// A change that is agreed on counts with what is changed here while the storage is read, and is not undone by it.
func TestAgreedAndOwnChanges(t *testing.T) {
	storage := &hookedStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	m := join(t, storage, "both", "both-1")
	if err := weigh(t.Context(), m, "a:1", 1, 2); err != nil {
		t.Fatal(err)
	}
	storage.onLoad = func() { // the writer cannot run meanwhile
		if m.weight("a:1") == 2 {
			reweigh(t, m, "a:1", 50)
		}
	}
	if err := weigh(t.Context(), m, "a:1", 2, 3); !errors.Is(err, errChanged) {
		t.Errorf("a change of what was just changed here: %v", err)
	}
	if err := weigh(t.Context(), m, "a:1", 50, 2); err != nil {
		t.Fatal(err)
	}
	number, err := m.ChangeAgreed(t.Context(), func(e *Edits, _ Group) (*overlay.Overlay, error) {
		return e.Edit("a:1", []overlay.Edit{{Field: overlay.Weight, Value: 51}}, nil), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.weight("a:1"); got != 51 || !m.Written(number, time.Minute) {
		t.Errorf("weight %d, want 51", got)
	}
}

// While the lock is not to be had, agreed changes fail in time and change nothing; others go on.
func TestLockNotHad(t *testing.T) {
	storage := &slowStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}, held: make(chan struct{})}
	m := join(t, storage, "held", "held-1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := weigh(ctx, m, "a:1", 1, 5); !errors.Is(err, ErrUnsure) || !errors.Is(err, errLock) {
		t.Errorf("got %v", err)
	}
	if got := m.weight("a:1"); got != 1 {
		t.Errorf("weight %d, want 1", got)
	}
	reweigh(t, m, "a:1", 3)
	if got := m.weight("a:1"); got != 3 {
		t.Errorf("weight %d after a change without a condition, want 3", got)
	}
	close(storage.held)
	storage.mu.Lock()
	storage.held = nil
	storage.mu.Unlock()
	eventually(t, "the lock", func() bool { return weigh(t.Context(), m, "a:1", 3, 4) == nil })
}

// A lock that a dead node left behind, and that others renew, is broken after a time in which no node holds one.
func TestLockOfDeadNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &certmagic.FileStorage{Path: t.TempDir()}
		l := locker{key: stateKey("dead")}
		file := filepath.Join(storage.Path, "locks", certmagic.StorageKeys.Safe(l.key)+".lock")
		created := time.Now()
		renew := func() {
			text, err := json.Marshal(map[string]time.Time{"created": created, "updated": time.Now()})
			if err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, text, 0o600))
			}
			if err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var renewing sync.WaitGroup
		renew()
		renewing.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
					if _, err := os.Stat(file); err == nil {
						renew()
					}
				}
			}
		})
		begin := time.Now()
		var err error
		for range 4 {
			within, done := context.WithTimeout(t.Context(), agreeTimeout)
			err = l.lock(within, storage)
			done()
			if err == nil {
				break
			}
		}
		cancel()
		renewing.Wait()
		if took := time.Since(begin); err != nil || took < StorageTimeout || took > 2*lockLasts {
			t.Errorf("the lock was had after %v: %v", took, err)
		}
		if err := storage.Unlock(t.Context(), l.key); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second) // certmagic's goroutine looks for the lock once more
	})
}
