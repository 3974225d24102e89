package manage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
	"github.com/google/uuid"

	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// StorageTimeout bounds what is done with the storage at a time; it may be at the other end of a network.
	StorageTimeout = 10 * time.Second
	// writeGap is the least time from one write to the next: what changes meanwhile is written together.
	writeGap = 25 * time.Millisecond
	// writeRetry is after which time a write that failed is tried again, doubling up to writeRetryMax.
	writeRetry    = time.Second
	writeRetryMax = 30 * time.Second
	// lastWrite is for how long a config that ends waits for what is to be written.
	lastWrite = 2 * time.Second
	// storageLook is how often the storage is looked at for what other nodes have written.
	storageLook = time.Second
)

// node tells this process from others that share its storage.
var node = uuid.NewString()

// writes count how often edits were written.
var writes struct{ ok, failed atomic.Uint64 }

// Writes returns how often this process has written edits to storage, and how often it has failed to.
func Writes() (ok, failed uint64) { return writes.ok.Load(), writes.failed.Load() }

// keeper keeps the edits of a pool in Caddy's storage. Several nodes may share that: whoever writes has the storage's lock and
// brings together what both have.
type keeper struct {
	pool  string
	key   string
	hurry chan struct{} // tells who writes not to rest
	onEnd func(*round)  // is called when a round has ended, with no lock held

	// mu guards what follows. It is held for moments and nobody is called meanwhile, so that it may be taken with Manager.mu held.
	mu      sync.Mutex
	active  bool // there is a config that serves
	storage certmagic.Storage
	uses    int              // how often it was said what storage to use
	mine    *overlay.Overlay // the edits of this node
	number  uint64           // of mine: what is made here has the next. Versions are no such number: other nodes count, too
	lineage string           // of the document in storage; "" if none was seen
	base    *overlay.Overlay // the edits in storage, as far as is known
	seen    certmagic.KeyInfo
	changed bool          // the storage may be another than the one that base is in
	writing bool          // a goroutine is at it
	looking bool          // it is to look whether another node has written
	written uint64        // number up to which edits are in storage
	failed  uint64        // number up to which they could not be written when that was tried last; 0 if it could
	unread  bool          // it could not be read when that was tried last
	turned  chan struct{} // closed when writing, written or failed is another
}

// stateKey is where the edits of the pool of that name are. Names may hold what paths must not.
func stateKey(pool string) string {
	const readable = 64
	safe := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '_'
	}, strings.ToLower(pool))
	sum := sha256.Sum256([]byte(pool))
	return "load_balancer/pools/" + safe[:min(len(safe), readable)] + "-" + hex.EncodeToString(sum[:8]) + ".json"
}

// newKeeper returns the keeper of the edits of the pool of that name, of which there are none yet.
func newKeeper(pool string, onEnd func(*round)) *keeper {
	none := new(overlay.Overlay)
	return &keeper{
		pool: pool, key: stateKey(pool), hurry: make(chan struct{}, 1), onEnd: onEnd,
		mine: none, base: none, turned: make(chan struct{}),
	}
}

// load reads the edits and returns them. What cannot be read changes nothing, and is looked at again when a config serves.
func (k *keeper) load(ctx context.Context, storage certmagic.Storage, logger *zap.Logger) *overlay.Overlay {
	k.mu.Lock()
	defer k.mu.Unlock() // nobody else knows of k yet
	// First the stamp: what is written in between is looked at again.
	seen, err := storage.Stat(ctx, k.key)
	if errors.Is(err, fs.ErrNotExist) {
		return k.mine
	}
	if err == nil {
		var raw []byte
		if raw, err = storage.Load(ctx, k.key); err == nil {
			var found *overlay.Overlay
			if found, k.lineage, err = overlay.Decode(k.pool, raw); err == nil {
				k.base, k.mine, k.seen = found, found, seen
				return k.mine
			}
		}
	}
	k.unread = true
	logger.Error("edits of pool cannot be read; the config rules", zap.String("pool", k.pool), zap.String("key", k.key), zap.Error(err))
	return k.mine
}

// use makes this the storage from now on: a config serves that has it.
func (k *keeper) use(storage certmagic.Storage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Each config has a storage of its own, which may be the same place.
	if k.uses > 0 {
		k.changed = true
		k.number++ // what was written elsewhere is to be here
	}
	k.active, k.storage = true, storage
	k.uses++
	k.looking = k.looking || k.unread || k.changed
}

// rest notes that no config serves any more: nothing new is written, and what fails is not tried again.
func (k *keeper) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.active = false
}

// keep makes these the edits of this node, and has them written.
func (k *keeper) keep(mine *overlay.Overlay) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if mine != k.mine {
		k.mine = mine
		k.number++
	}
	k.write()
}

// latest is the number of the edits of this node.
func (k *keeper) latest() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.number
}

// flush has the edits written, if they are not in storage yet, and the storage looked at if that is wanted.
func (k *keeper) flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.write()
}

// write is flush for those who hold k.mu.
func (k *keeper) write() {
	switch {
	case !k.active:
	case k.writing:
		select {
		case k.hurry <- struct{}{}:
		default:
		}
	case k.looking || k.mine != k.base:
		k.writing = true
		go k.writeAll()
	}
}

// writeAll writes the edits until all are. There is one at a time.
func (k *keeper) writeAll() {
	retry := writeRetry
	for {
		r := k.begin()
		if r == nil {
			return
		}
		start := time.Now()
		r.err = r.do()
		k.onEnd(r)
		if r.err == nil || !r.own {
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

// begin begins a round. It returns nil, and writing ends, if there is nothing to do, or no use in it.
func (k *keeper) begin() *round {
	k.mu.Lock()
	defer k.mu.Unlock()
	own := k.mine != k.base
	nothing := !own && !k.looking
	if k.looking = false; nothing || !k.active && k.failed > 0 {
		k.writing = false
		k.turn()
		return nil
	}
	return &round{
		storage: k.storage, uses: k.uses, key: k.key, pool: k.pool, lineage: k.lineage, changed: k.changed,
		base: k.base, mine: k.mine, number: k.number, own: own,
	}
}

// end notes how a round has ended, and what there is to tell of it. It returns what the edits of this node are to be then, nil if they
// stay as they are.
func (k *keeper) end(r *round) (next *overlay.Overlay, s Synced) {
	k.mu.Lock()
	defer k.mu.Unlock()
	failed, unread := k.failed > 0, k.unread
	switch {
	case r.err == nil:
		if r.own {
			writes.ok.Add(1)
		}
		k.written, k.failed, k.unread = r.number, 0, false
		k.seen, k.base, k.lineage = r.seen, r.result, r.lineage
		k.changed = k.changed && k.uses != r.uses // there is another one meanwhile
		next = r.result
		if k.mine != r.mine {
			// There were other edits meanwhile.
			next, _ = overlay.Rebase(r.mine, k.mine, r.result)
		}
		k.mine = next
	case r.own:
		writes.failed.Add(1)
		k.failed = r.number
	default:
		k.unread = true
	}
	k.turn()
	return next, Synced{
		Pool: k.pool, Err: r.err, Writing: turn(failed, k.failed > 0), Reading: turn(unread, k.unread), Aside: r.aside, Cause: r.cause,
	}
}

// turn tells those who wait that something is written, or is not. The caller holds k.mu.
func (k *keeper) turn() {
	close(k.turned)
	k.turned = make(chan struct{})
}

// wait is [Manager.Written].
func (k *keeper) wait(number uint64, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	for {
		k.mu.Lock()
		done, hopeless, turned := k.written >= number, k.failed >= number || !k.writing, k.turned
		k.mu.Unlock()
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
func (k *keeper) look(ctx context.Context) {
	k.mu.Lock()
	storage, seen := k.storage, k.seen
	idle := !k.writing && k.active
	k.mu.Unlock()
	if !idle {
		return // who writes looks, too
	}
	ctx, cancel := context.WithTimeout(ctx, StorageTimeout)
	defer cancel()
	stamp, err := storage.Stat(ctx, k.key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && stamp.Modified.Equal(seen.Modified) && stamp.Size == seen.Size {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.looking = true
	k.write()
}

// Written waits until the edits up to that number are in storage, and tells whether they are. It does not wait when they could not be
// written, or nobody is going to.
func (m *Manager) Written(number uint64, most time.Duration) bool { return m.keeper.wait(number, most) }

// Follow has the managers take over what other nodes have written, until ctx ends.
func Follow(ctx context.Context, managers []*Manager) {
	ticker := time.NewTicker(storageLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, m := range managers {
				m.keeper.look(ctx)
			}
		}
	}
}

// endRound takes over what a round has brought.
func (m *Manager) endRound(r *round) {
	m.mu.Lock()
	next, s := m.keeper.end(r)
	events := m.adopt(next)
	var owner Owner
	if n := len(m.owners); n > 0 {
		owner = m.owners[n-1]
	}
	m.mu.Unlock()
	m.pool.Report(events)
	for _, c := range r.conflicts {
		s.Conflicts = append(s.Conflicts, m.Name(c.Address))
	}
	if owner != nil {
		owner.Tell(s)
	}
}

// adopt makes next the edits, unless it is nil. Where it changes nothing but the version, nothing is built anew. The caller holds m.mu.
func (m *Manager) adopt(next *overlay.Overlay) (events []pool.Event) {
	e := m.edits.Load()
	switch {
	case next == nil || next == e.Overlay:
	case next.Equal(e.Overlay):
		m.edits.Store(&Edits{next, e.gone})
	default:
		events = m.install(&Edits{next, e.gone})
		m.schedule(time.Now())
	}
	return events
}

// round brings the edits of this node and those in storage together, once.
type round struct {
	storage certmagic.Storage
	uses    int
	key     string
	pool    string
	lineage string
	changed bool
	base    *overlay.Overlay // what both were, as far as this node knows
	mine    *overlay.Overlay // what this node has
	number  uint64           // of mine
	own     bool             // this node has something to write

	err       error
	result    *overlay.Overlay // what is in storage now
	there     bool             // there was something before
	seen      certmagic.KeyInfo
	conflicts []overlay.Conflict
	aside     string // where a document was put that could not be read; "" if there was none
	cause     error  // why it could not
}

// do reads, and writes if there is something to write.
func (r *round) do() error {
	ctx, cancel := context.WithTimeout(context.Background(), StorageTimeout)
	defer cancel()
	if r.mine == r.base {
		// There is nothing to write, unless what is there is nothing, or has another history.
		theirs, err := r.read(ctx)
		switch {
		case err == nil && r.mine == r.base && (r.there || !r.changed):
			r.result = theirs
			return nil
		case err != nil && !unreadable(err):
			return err
		}
	}
	if err := r.storage.Lock(ctx, r.key); err != nil {
		return err
	}
	defer func() { _ = r.storage.Unlock(context.WithoutCancel(ctx), r.key) }()
	theirs, err := r.read(ctx)
	if unreadable(err) {
		theirs, err = r.base, r.setAside(ctx, err)
	}
	if err != nil {
		return err
	}
	if r.result, r.conflicts = overlay.Rebase(r.base, r.mine, theirs); r.result == theirs && r.there {
		return nil
	}
	return r.write(ctx)
}

// write writes the result.
func (r *round) write(ctx context.Context) error {
	if len(r.result.Backends) == 0 && !r.there {
		return nil // there is nothing to keep
	}
	if r.lineage == "" {
		r.lineage = uuid.NewString()
	}
	raw, err := overlay.Encode(r.pool, r.lineage, node, r.result, time.Now())
	if err != nil {
		return err
	}
	if err := r.storage.Store(ctx, r.key, raw); err != nil {
		return err
	}
	r.seen, _ = r.storage.Stat(ctx, r.key) // without it the document is read once more
	return nil
}

// read returns what is in storage; what was, if there is nothing.
func (r *round) read(ctx context.Context) (*overlay.Overlay, error) {
	// First the stamp: what is written in between is looked at again.
	seen, err := r.storage.Stat(ctx, r.key)
	if errors.Is(err, fs.ErrNotExist) {
		return r.base, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := r.storage.Load(ctx, r.key)
	if err != nil {
		return nil, err
	}
	theirs, lineage, err := overlay.Decode(r.pool, raw)
	if err != nil {
		return nil, err
	}
	if r.there, r.seen = true, seen; r.lineage != lineage {
		// It is another history, of which nothing here was made.
		r.lineage, r.base = lineage, new(overlay.Overlay)
	}
	return theirs, nil
}

// unreadable tells whether a document is of no use to anybody. One of a later version is of use to others.
func unreadable(err error) bool {
	return errors.Is(err, overlay.ErrCorrupt) || errors.Is(err, overlay.ErrForeign)
}

// setAside puts a document away that cannot be read, in the place of the one before.
func (r *round) setAside(ctx context.Context, cause error) error {
	raw, err := r.storage.Load(ctx, r.key)
	if err != nil {
		return err
	}
	r.aside, r.cause = r.key+".unreadable", cause
	if err := r.storage.Store(ctx, r.aside, raw); err != nil {
		return err
	}
	return r.storage.Delete(ctx, r.key)
}
