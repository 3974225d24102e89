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
	// StorageTimeout bounds one operation on the storage, which may be remote.
	StorageTimeout = 10 * time.Second
	// writeGap is the minimum time between two writes. Changes made in between are written together.
	writeGap = 25 * time.Millisecond
	// writeRetry is the delay before a failed write is retried. It doubles up to writeRetryMax.
	writeRetry    = time.Second
	writeRetryMax = 30 * time.Second
	// lastWrite is how long a config that ends waits for pending writes.
	lastWrite = 2 * time.Second
	// storageInterval is the interval at which the storage is checked for writes of other nodes.
	storageInterval = time.Second
)

// node identifies this process among those that share its storage.
var node = uuid.NewString()

// writes counts the writes of edits.
var writes struct{ ok, failed atomic.Uint64 }

// Writes returns how many writes of edits to storage by this process have succeeded and failed.
func Writes() (ok, failed uint64) { return writes.ok.Load(), writes.failed.Load() }

// keeper keeps the edits of a pool in Caddy's storage. Several nodes may share the storage: a writer takes the storage's lock and merges
// its own edits with the stored ones.
type keeper struct {
	pool  string
	key   string
	hurry chan struct{} // makes the writer skip its pause
	onEnd func(*round)  // called when a round has ended, with no lock held

	rounds chan struct{} // holds an element while a round runs, of which there is one at a time
	locker locker        // belongs to the round that runs

	// mu guards the fields below. It is held only briefly, and nothing is called while it is held, so it may be taken with Manager.mu
	// held.
	mu      sync.Mutex
	active  bool // a config serves
	storage certmagic.Storage
	uses    int              // counts the calls of use
	mine    *overlay.Overlay // the edits of this node
	number  uint64           // number of mine; each change increments it. An overlay's version cannot serve for this, because other nodes increment it, too
	lineage string           // of the document in storage; "" if none was seen
	base    *overlay.Overlay // the edits in storage, as last seen
	seen    certmagic.KeyInfo
	changed bool          // base may be from another storage than the current one
	writing bool          // a writer goroutine is running
	looking bool          // the writer must check for writes of other nodes
	written uint64        // the edits up to this number are in storage
	failed  uint64        // number up to which the last write failed; 0 if it succeeded
	unread  bool          // the last read failed
	turned  chan struct{} // closed when writing, written or failed changes
}

// stateKey returns the storage key of a pool's edits.
func stateKey(pool string) string { return storageKey("pools", pool) }

// storageKey returns the storage key of a pool's document in that folder. Pool names may contain characters that paths must not.
func storageKey(folder, pool string) string {
	const readable = 64
	safe := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '_'
	}, strings.ToLower(pool))
	sum := sha256.Sum256([]byte(pool))
	return "load_balancer/" + folder + "/" + safe[:min(len(safe), readable)] + "-" + hex.EncodeToString(sum[:8]) + ".json"
}

// newKeeper returns a keeper, without edits, for the pool with this name.
func newKeeper(pool string, onEnd func(*round)) *keeper {
	none := new(overlay.Overlay)
	return &keeper{
		pool: pool, key: stateKey(pool), hurry: make(chan struct{}, 1), onEnd: onEnd, rounds: make(chan struct{}, 1),
		locker: locker{key: stateKey(pool)},
		mine:   none, base: none, turned: make(chan struct{}),
	}
}

// load reads the edits from storage. After a failure it returns no edits, and they are read again when a config serves.
func (k *keeper) load(ctx context.Context, storage certmagic.Storage, logger *zap.Logger) *overlay.Overlay {
	k.mu.Lock()
	defer k.mu.Unlock() // no other goroutine knows k yet
	// Stat comes first, so that a write in between is noticed at the next look.
	seen, err := storage.Stat(ctx, k.key)
	if errors.Is(err, fs.ErrNotExist) {
		return k.mine
	}
	if err == nil {
		var raw []byte
		if raw, err = storage.Load(ctx, k.key); err == nil {
			var found *overlay.Overlay
			if found, k.lineage, err = decode(k.pool, raw); err == nil {
				k.base, k.mine, k.seen = found, found, seen
				return k.mine
			}
		}
	}
	k.unread = true
	logger.Error("edits of pool cannot be read; the config applies", zap.String("pool", k.pool), zap.String("key", k.key), zap.Error(err))
	return k.mine
}

// use switches to the storage of a config that serves.
func (k *keeper) use(storage certmagic.Storage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Each config has its own storage value, which may be the same place.
	if k.uses > 0 {
		k.changed = true
		k.number++ // the edits must be written to the new storage
	}
	k.active, k.storage = true, storage
	k.uses++
	k.looking = k.looking || k.unread || k.changed
}

// rest records that no config serves any more: no new edits are written, and failed writes are not retried.
func (k *keeper) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.active = false
}

// keep sets the edits of this node and starts writing them.
func (k *keeper) keep(mine *overlay.Overlay) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if mine != k.mine {
		k.mine = mine
		k.number++
	}
	k.write()
}

// latest returns the number of this node's edits.
func (k *keeper) latest() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.number
}

// flush starts a writer if the edits are not in storage yet, or if the storage must be checked.
func (k *keeper) flush() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.write()
}

// write is flush for callers that hold k.mu.
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

// writeAll runs rounds until all edits are written. Only one writer runs at a time.
func (k *keeper) writeAll() {
	retry := writeRetry
	for {
		k.rounds <- struct{}{}
		r := k.begin()
		if r == nil {
			<-k.rounds
			return
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), StorageTimeout)
		r.err = r.do(ctx)
		cancel()
		k.onEnd(r)
		<-k.rounds
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

// begin starts a round. It returns nil, and ends writing, if there is nothing to do or trying is pointless.
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
	return k.newRound()
}

// newRound returns a round with what is known now. The caller holds k.mu.
func (k *keeper) newRound() *round {
	return &round{
		storage: k.storage, uses: k.uses, key: k.key, pool: k.pool, lineage: k.lineage, changed: k.changed, locker: &k.locker,
		base: k.base, mine: k.mine, number: k.number, own: k.mine != k.base,
	}
}

// end applies the result of a round to k and returns the report. next is what the edits of this node become, nil if they stay the same.
func (k *keeper) end(r *round) (next *overlay.Overlay, s Synced) {
	k.mu.Lock()
	defer k.mu.Unlock()
	failed, unread := k.failed > 0, k.unread
	switch {
	case r.err != nil && r.alter != nil:
		// The change is not made, and its caller gets the error. The writer writes the rest.
		return nil, Synced{Pool: k.pool}
	case r.err == nil:
		if r.own {
			writes.ok.Add(1)
		}
		k.written, k.failed, k.unread = r.number, 0, false
		k.seen, k.base, k.lineage = r.seen, r.result, r.lineage
		k.changed = k.changed && k.uses != r.uses // the storage was switched during the round
		next = r.result
		if k.mine != r.mine {
			// The edits changed during the round.
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

// turn wakes the callers of wait. The caller holds k.mu.
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

// settle waits until the edits have been read or, if load could not read them, until the first serving config has tried again. It reports
// false if ctx ends before.
func (k *keeper) settle(ctx context.Context) bool {
	for {
		k.mu.Lock()
		done, turned := !k.unread || k.uses != 1 || !k.writing || k.failed > 0, k.turned
		k.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return false
		}
	}
}

// look adopts the edits that other nodes have written.
func (k *keeper) look(ctx context.Context) {
	k.mu.Lock()
	storage, seen := k.storage, k.seen
	idle := !k.writing && k.active
	k.mu.Unlock()
	if !idle {
		return // the writer reads the storage as well
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

// Written waits until the edits up to that number are in storage, and reports whether they are. It returns early if writing has failed or
// no writer will run.
func (m *Manager) Written(number uint64, most time.Duration) bool { return m.keeper.wait(number, most) }

// Settle waits until the edits in storage, if they could be read, are in force. The first config that serves makes one more attempt if they
// could not be read when it was loaded. It reports false if ctx ends before.
func (m *Manager) Settle(ctx context.Context) bool {
	if !m.keeper.settle(ctx) {
		return false
	}
	// A round ends with mu held until its result is in force.
	m.mu.Lock()
	defer m.mu.Unlock()
	return true
}

// Follow makes the managers adopt the edits that other nodes write, until ctx ends.
func Follow(ctx context.Context, managers []*Manager) {
	ticker := time.NewTicker(storageInterval)
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

// endRound applies the result of a round.
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

// adopt makes next the edits, unless it is nil. If only the version differs, nothing is rebuilt. The caller holds m.mu.
func (m *Manager) adopt(next *overlay.Overlay) (events []pool.Event) {
	e := m.edits.Load()
	switch {
	case next == nil || next == e.Overlay:
	case next.Equal(e.Overlay):
		m.edits.Store(&Edits{next, e.gone})
	default:
		events = m.install(&Edits{next, e.stillGone(next)})
		m.schedule(time.Now())
	}
	return events
}
