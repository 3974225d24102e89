package manage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// agreeTimeout bounds the wait for the storage's lock of a change that depends on the edits in storage. A client waits for the answer.
const agreeTimeout = 5 * time.Second

// ErrUnsure is returned for a change that is not made because the edits in storage could not be locked, read or written.
var ErrUnsure = errors.New("cannot be compared with the edits in storage")

// ChangeAgreed is [Manager.Change] for changes that depend on the current edits of all nodes. alter gets the edits in storage, merged with
// those of this node that are not written yet, while the storage's lock is held: no other node makes such a change between alter and the
// write. The change is in force once it is written. alter may be called several times.
//
// Neither requests nor other changes wait for it.
func (m *Manager) ChangeAgreed(ctx context.Context, alter func(*Edits, Group) (*overlay.Overlay, error)) (number uint64, err error) {
	k := m.keeper
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	select {
	case k.rounds <- struct{}{}:
	case <-ctx.Done():
		return 0, m.unsure(fmt.Errorf("%w: other changes are waiting for it", errLock))
	}
	defer func() { <-k.rounds }()

	on := func(r *round, merged *overlay.Overlay) (*overlay.Overlay, error) {
		return m.alterMerged(r, merged, alter)
	}
	// If the edits known here forbid the change, those in storage most likely do, which can be checked without the lock.
	if err := m.try(ctx, on); err != nil {
		return 0, err
	}
	r := k.start()
	if r == nil {
		return 0, m.ended()
	}
	r.alter = on
	r.err = r.do(ctx)
	m.endRound(r)
	switch {
	case r.err != nil:
		return 0, m.unsure(r.err)
	case r.refused != nil:
		return 0, r.refused
	}
	m.mu.Lock()
	events := m.finishRemovals(time.Now())
	number = k.latest()
	m.mu.Unlock()
	m.pool.Report(events)
	return number, nil
}

func (m *Manager) unsure(err error) error {
	return fmt.Errorf("pool %s: %w: %w", m.pool.Name(), ErrUnsure, err)
}

func (m *Manager) ended() error { return fmt.Errorf("pool %s: %w", m.pool.Name(), ErrEnded) }

// try returns the error of on for the edits in storage, if on refuses those of this node as well.
func (m *Manager) try(ctx context.Context, on func(*round, *overlay.Overlay) (*overlay.Overlay, error)) error {
	r := m.keeper.start()
	if r == nil {
		return m.ended()
	}
	if _, err := on(r, r.mine); err == nil {
		return nil
	}
	theirs, err := r.read(ctx)
	if err != nil {
		return nil // the round reports the error
	}
	r.result, _ = overlay.Rebase(r.base, r.mine, theirs)
	_, refused := on(r, r.result)
	if refused == nil || r.mine != r.base || !r.there {
		return nil // there are edits to write, or the document has another lineage: the round handles both
	}
	m.endRound(r) // puts the changes of other nodes in force before the next request
	return refused
}

// alterMerged calls alter with the merged edits of a round, including changes made here since the round began.
func (m *Manager) alterMerged(r *round, merged *overlay.Overlay, alter func(*Edits, Group) (*overlay.Overlay, error)) (*overlay.Overlay, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, g := m.edits.Load(), m.latest()
	if g == nil {
		return merged, m.ended()
	}
	if e.Overlay != r.mine {
		merged, _ = overlay.Rebase(r.mine, e.Overlay, merged)
		r.mine, r.number, r.own = e.Overlay, m.keeper.latest(), true
	}
	next, err := alter(&Edits{merged, e.stillGone(merged)}, g)
	if err != nil {
		return merged, err
	}
	r.own = r.own || next != merged
	return next, nil
}

// start returns a round, nil if no config serves.
func (k *keeper) start() *round {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.active {
		return nil
	}
	return k.newRound()
}
