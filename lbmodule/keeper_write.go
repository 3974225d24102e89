package lbmodule

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/google/uuid"

	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// write has the edits written, if they are not in storage yet, and the storage looked at if that is wanted. The caller holds m.mu.
func (m *manager) write() {
	k := &m.keeper
	switch {
	case len(m.apps) == 0 || k.storage == nil:
	case k.writing:
		select {
		case k.hurry <- struct{}{}:
		default:
		}
	case k.looking || m.edits.Load().Overlay != k.base:
		k.writing = true
		go m.writeAll()
	}
}

// writeAll writes the edits until all are. There is one at a time.
func (m *manager) writeAll() {
	retry := writeRetry
	for {
		m.mu.Lock()
		k := &m.keeper
		x := &exchange{
			storage: k.storage, uses: k.uses, key: k.key, pool: m.pool.Name(), lineage: k.lineage, changed: k.changed,
			base: k.base, mine: m.edits.Load().Overlay, number: k.number,
		}
		nothing := x.mine == x.base && !k.looking
		if k.looking = false; nothing || len(m.apps) == 0 && k.failed > 0 {
			k.writing = false
			k.turn()
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		start := time.Now()
		own := x.mine != x.base // do may find another base
		if m.exchanged(x, own, x.do()); x.err == nil || !own {
			retry = writeRetry
			time.Sleep(writeGap - time.Since(start))
			continue
		}
		timer := time.NewTimer(retry)
		select {
		case <-timer.C:
			retry = min(2*retry, writeRetryMax)
		case <-k.hurry:
			time.Sleep(writeGap)
		}
		timer.Stop()
	}
}

// exchange brings the edits of this node and those in storage together.
type exchange struct {
	storage certmagic.Storage
	uses    int
	key     string
	pool    string
	lineage string
	changed bool
	base    *overlay.Overlay // what both were, as far as this node knows
	mine    *overlay.Overlay // what this node has
	number  uint64           // of mine

	err       error
	result    *overlay.Overlay // what is in storage now
	there     bool             // there was something before
	seen      certmagic.KeyInfo
	conflicts []overlay.Conflict
	aside     string // where a document was put that could not be read; "" if there was none
	cause     error  // why it could not
}

// do reads, and writes if there is something to write.
func (x *exchange) do() error {
	ctx, cancel := context.WithTimeout(context.Background(), storageTimeout)
	defer cancel()
	if x.mine == x.base {
		// There is nothing to write, unless what is there is nothing, or has another history.
		theirs, err := x.read(ctx)
		switch {
		case err == nil && x.mine == x.base && (x.there || !x.changed):
			x.result = theirs
			return nil
		case err != nil && !unreadable(err):
			return err
		}
	}
	if err := x.storage.Lock(ctx, x.key); err != nil {
		return err
	}
	defer func() { _ = x.storage.Unlock(context.WithoutCancel(ctx), x.key) }()
	theirs, err := x.read(ctx)
	if unreadable(err) {
		theirs, err = x.base, x.setAside(ctx, err)
	}
	if err != nil {
		return err
	}
	if x.result, x.conflicts = overlay.Rebase(x.base, x.mine, theirs); x.result == theirs && x.there {
		return nil
	}
	return x.write(ctx)
}

// write writes the result.
func (x *exchange) write(ctx context.Context) error {
	if len(x.result.Backends) == 0 && !x.there {
		return nil // there is nothing to keep
	}
	if x.lineage == "" {
		x.lineage = uuid.NewString()
	}
	raw, err := overlay.Encode(x.pool, x.lineage, node, x.result, time.Now())
	if err != nil {
		return err
	}
	if err := x.storage.Store(ctx, x.key, raw); err != nil {
		return err
	}
	x.seen, _ = x.storage.Stat(ctx, x.key) // without it the document is read once more
	return nil
}

// read returns what is in storage; what was, if there is nothing.
func (x *exchange) read(ctx context.Context) (*overlay.Overlay, error) {
	// First the stamp: what is written in between is looked at again.
	seen, err := x.storage.Stat(ctx, x.key)
	if errors.Is(err, fs.ErrNotExist) {
		return x.base, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := x.storage.Load(ctx, x.key)
	if err != nil {
		return nil, err
	}
	theirs, lineage, err := overlay.Decode(x.pool, raw)
	if err != nil {
		return nil, err
	}
	if x.there, x.seen = true, seen; x.lineage != lineage {
		// It is another history, of which nothing here was made.
		x.lineage, x.base = lineage, new(overlay.Overlay)
	}
	return theirs, nil
}

// unreadable tells whether a document is of no use to anybody. One of a later version is of use to others.
func unreadable(err error) bool {
	return errors.Is(err, overlay.ErrCorrupt) || errors.Is(err, overlay.ErrForeign)
}

// setAside puts a document away that cannot be read, in the place of the one before.
func (x *exchange) setAside(ctx context.Context, cause error) error {
	raw, err := x.storage.Load(ctx, x.key)
	if err != nil {
		return err
	}
	x.aside, x.cause = x.key+".unreadable", cause
	if err := x.storage.Store(ctx, x.aside, raw); err != nil {
		return err
	}
	return x.storage.Delete(ctx, x.key)
}

// exchanged notes how an exchange ended.
func (m *manager) exchanged(x *exchange, own bool, err error) {
	x.err = err
	m.mu.Lock()
	k := &m.keeper
	before := *k
	var events []pool.Event
	switch {
	case err == nil:
		if own {
			stateWrites.ok.Add(1)
		}
		k.written, k.failed, k.unread = x.number, 0, false
		k.seen, k.base, k.lineage = x.seen, x.result, x.lineage
		k.changed = k.changed && k.uses != x.uses // there is another one meanwhile
		next, e := x.result, m.edits.Load()
		if e.Overlay != x.mine {
			// There were other edits meanwhile.
			next, _ = overlay.Rebase(x.mine, e.Overlay, x.result)
		}
		events = m.adopt(next)
	case own:
		stateWrites.failed.Add(1)
		k.failed = x.number
	default:
		k.unread = true
	}
	after := *k
	k.turn()
	var app *App
	if n := len(m.apps); n > 0 {
		app = m.apps[n-1]
	}
	m.mu.Unlock()
	m.pool.Report(events)
	if app != nil {
		app.tellExchange(m, x, &before, &after)
	}
}

// adopt makes next the edits. Where it changes nothing but the version, nothing is built anew. The caller holds m.mu.
func (m *manager) adopt(next *overlay.Overlay) (events []pool.Event) {
	e := m.edits.Load()
	switch {
	case next == e.Overlay:
	case next.Equal(e.Overlay):
		m.edits.Store(&edits{next, e.gone})
	default:
		events = m.install(&edits{next, e.gone})
		m.schedule(time.Now())
	}
	return events
}

// written waits until the edits up to that number are in storage, and tells whether they are. It does not wait when they could not
// be written, or nobody is going to.
func (m *manager) written(number uint64, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		m.mu.Lock()
		k := &m.keeper
		done, hopeless, turned := k.written >= number, k.failed >= number || !k.writing, k.turned
		m.mu.Unlock()
		if done || hopeless {
			return done
		}
		select {
		case <-turned:
		case <-timer.C:
			return false
		}
	}
}

// look takes over what other nodes have written.
func (m *manager) look(ctx context.Context) {
	m.mu.Lock()
	k := &m.keeper
	storage, key, seen := k.storage, k.key, k.seen
	idle := !k.writing && len(m.apps) > 0 && storage != nil
	m.mu.Unlock()
	if !idle {
		return // who writes looks, too
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	stamp, err := storage.Stat(ctx, key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && stamp.Modified.Equal(seen.Modified) && stamp.Size == seen.Size {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k.looking = true
	m.write()
}

// storageLook is how often the storage is looked at for what other nodes have written.
const storageLook = time.Second

// followStorage has the managers take over what other nodes have written, until ctx ends.
func followStorage(ctx context.Context, managers []*manager) {
	ticker := time.NewTicker(storageLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, m := range managers {
				m.look(ctx)
			}
		}
	}
}
