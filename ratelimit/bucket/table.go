package bucket

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits are the limits of each key.
type Limits struct {
	Rate        rate.Limit // tokens per second; 0 for no limit of the rate
	Burst       int        // capacity of a bucket in tokens
	Concurrency int        // requests in flight; 0 for no limit
}

// Cause is why a request is refused. The zero Cause means that it is not.
type Cause uint8

const (
	_ Cause = iota
	// Rate means that the bucket is empty.
	Rate
	// Concurrency means that too many requests are in flight.
	Concurrency
)

// Decision is the outcome for a request. The zero Decision lets it pass.
type Decision struct {
	Cause    Cause         // why it is refused; 0 if it is not
	Key      Key           // the key that refused it
	Wait     time.Duration // time until a retry may succeed
	Overflow bool          // the table had no room for one of its keys, so the shared overflow bucket decided
}

// Allowed reports whether the request may pass.
func (d *Decision) Allowed() bool { return d.Cause == 0 }

// MaxKeys is the largest number of keys of a request.
const MaxKeys = 3

// Table holds a token bucket for each key, up to a maximum number of keys. It is safe for concurrent use.
type Table struct {
	now    func() time.Time
	epoch  time.Time
	seed   [2]uint64 // of hash
	layout atomic.Pointer[layout]

	mu       sync.Mutex // held while the table is reconfigured, and by all methods that iterate over the shards
	limits   Limits
	max      int
	overflow shard // a single bucket, shared by the keys that find no room

	evictions atomic.Uint64
}

// layout maps keys to shards. Resizing replaces it with another layout of the same entries, while the locks of all shards are held.
type layout struct {
	shards []shard
	shift  int
}

// New returns an empty table. now is the clock; tests replace time.Now.
func New(limits Limits, maxKeys int, now func() time.Time) *Table {
	t := &Table{now: now, epoch: now(), seed: [2]uint64{rand.Uint64(), rand.Uint64()}, limits: limits, max: maxKeys}
	t.layout.Store(t.newLayout(maxKeys))
	t.overflow = shard{limits: limits, epoch: t.epoch, max: 1}
	return t
}

// newLayout splits maxKeys into as many shards as are useful.
func (t *Table) newLayout(maxKeys int) *layout {
	const most, keysOfShard = 128, 256
	n := 1
	for n < most && n*2*keysOfShard <= maxKeys {
		n *= 2
	}
	l := &layout{shards: make([]shard, n), shift: 64 - bits.Len(uint(n-1))}
	for i := range l.shards {
		size := maxKeys / n
		if i < maxKeys%n {
			size++
		}
		l.shards[i] = shard{limits: t.limits, epoch: t.epoch, max: size, index: make(map[Key]*entry), evictions: &t.evictions}
	}
	return l
}

func (l *layout) of(hash uint64) *shard { return &l.shards[hash>>l.shift] }

// hash spreads keys over shards in a way that clients cannot foresee, by a product of 128 bits (as wyhash does, W. Yi, 2019).
func (t *Table) hash(k Key) uint64 {
	high, low := bits.Mul64(binary.LittleEndian.Uint64(k.data[:8])^t.seed[0], binary.LittleEndian.Uint64(k.data[8:])^t.seed[1])
	return high ^ low
}

// lock returns the shard of k with its lock held.
func (t *Table) lock(k Key) *shard {
	for {
		l := t.layout.Load()
		s := l.of(t.hash(k))
		s.mu.Lock()
		if t.layout.Load() == l {
			return s
		}
		s.mu.Unlock()
	}
}

// time returns the current time for a shard, which does not run backwards. The caller holds the shard's lock.
func (t *Table) time(s *shard) time.Time { return s.time(t.now()) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Grant records what an admitted request was charged.
type Grant struct {
	table   *Table
	n       int
	keys    [MaxKeys]Key  // the keys that were charged
	counted [MaxKeys]bool // the request is counted among those in flight of that key
	spill   int           // number of the key charged to the shared bucket, from 1; 0 if none is
	free    bool          // no token was taken
}

// Take charges a request to all its keys, at most MaxKeys, or to none of them. text is the text of the first key, if that is a [TextKey].
// The caller ends the grant with [Grant.Release] when the request has ended, or with [Grant.Refund] if another limit refused it.
func (t *Table) Take(keys []Key, text string) (Grant, Decision) {
	return t.takeAll(Grant{table: t}, keys, text)
}

// TakeInFlight is Take for a request whose rate was checked elsewhere: it counts the request among those in flight, and takes no token.
func (t *Table) TakeInFlight(keys []Key, text string) (Grant, Decision) {
	return t.takeAll(Grant{table: t, free: true}, keys, text)
}

func (t *Table) takeAll(g Grant, keys []Key, text string) (Grant, Decision) {
	var now time.Time // read once, under the lock of the first key's shard, because reading it takes as long as charging a key
	for _, k := range keys {
		if d := t.charge(&g, k, text, &now); !d.Allowed() {
			g.Refund()
			return Grant{}, d
		}
		text = ""
	}
	return g, Decision{Overflow: g.spill > 0}
}

func (t *Table) charge(g *Grant, k Key, text string, read *time.Time) Decision {
	s := t.lock(k)
	if read.IsZero() {
		*read = t.now()
	}
	now := s.time(*read)
	e := s.find(k, text, now)
	spill := e == nil
	if spill {
		s.mu.Unlock()
		if g.spill > 0 {
			return Decision{} // the shared bucket is charged once per request
		}
		s = &t.overflow
		s.mu.Lock()
		now = s.time(*read)
		e = s.only(now)
	}
	defer s.mu.Unlock()
	cause, wait := s.admit(e, !g.free, now)
	if cause != 0 {
		return Decision{Cause: cause, Key: k, Wait: wait, Overflow: spill}
	}
	g.keys[g.n] = k
	if s.limits.Concurrency > 0 {
		e.inFlight++
		g.counted[g.n] = true
	}
	g.n++
	if spill {
		g.spill = g.n
	}
	return Decision{}
}

// Release must be called when the request has ended.
func (g *Grant) Release() { g.giveBack(false) }

// Refund gives back the tokens as well, as if there had been no request.
func (g *Grant) Refund() { g.giveBack(true) }

func (g *Grant) giveBack(tokens bool) {
	for i := range g.n {
		if tokens && !g.free || g.counted[i] {
			g.giveBackTo(i, tokens && !g.free)
		}
	}
	g.n = 0
}

func (g *Grant) giveBackTo(i int, tokens bool) {
	var s *shard
	var e *entry
	if g.spill == i+1 {
		s = &g.table.overflow
		s.mu.Lock()
		e = s.only(s.last)
	} else {
		s = g.table.lock(g.keys[i])
		e = s.index[g.keys[i]]
	}
	defer s.mu.Unlock()
	if e == nil {
		return // the entry was dropped, although it owed, when the table was made smaller
	}
	owed := false
	if g.counted[i] && e.inFlight > 0 {
		e.inFlight--
		owed = e.inFlight == 0
	}
	if tokens && s.limits.Rate > 0 {
		e.limiter.AllowN(g.table.time(s), -1)
		owed = true
	}
	if owed {
		s.lookAgain() // the entry may be droppable now
	}
}

// Hold refuses k for a time, because the shared store has refused it.
func (t *Table) Hold(k Key, d time.Duration) {
	s := t.lock(k)
	defer s.mu.Unlock()
	if e := s.index[k]; e != nil {
		e.heldUntil = t.time(s).Add(d).Sub(t.epoch)
	}
}

// Configure gives the table other limits or another size. Buckets keep their fill level, in proportion. All holds end, because the store
// that asked for them may be gone or have other limits.
func (t *Table) Configure(limits Limits, maxKeys int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if maxKeys != t.max {
		t.resize(maxKeys)
		t.max = maxKeys
	}
	t.eachShard(func(s *shard, _ time.Time) { s.release() })
	if limits == t.limits {
		return
	}
	t.limits = limits
	t.eachShard(func(s *shard, now time.Time) { s.configure(limits, now) })
	t.overflow.mu.Lock()
	defer t.overflow.mu.Unlock()
	t.overflow.configure(limits, t.time(&t.overflow))
}

// resize spreads the entries over new shards. Entries that find no room are dropped, in the order in which room evicts.
func (t *Table) resize(maxKeys int) {
	old := t.layout.Load()
	next := t.newLayout(maxKeys)
	for i := range old.shards {
		old.shards[i].mu.Lock()
	}
	for i := range old.shards {
		from := &old.shards[i]
		now := t.time(from)
		from.each(func(_ int, e *entry) {
			to := next.of(t.hash(e.key))
			to.last = later(to.last, now)
			if slot := to.room(to.last); slot >= 0 {
				to.take(slot, e, from.share(e, now), to.last)
			} else {
				t.evictions.Add(1) // the maximum holds even if no entry could be evicted
			}
		})
	}
	t.layout.Store(next)
	for i := range old.shards {
		old.shards[i].mu.Unlock()
	}
}

// eachShard calls f for each shard in turn, with its lock held. The caller holds t.mu, so that the layout does not change.
func (t *Table) eachShard(f func(s *shard, now time.Time)) {
	l := t.layout.Load()
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		f(s, t.time(s))
		s.mu.Unlock()
	}
}

// Sweep drops keys whose removal loses no state, and frees their memory. Call it regularly.
func (t *Table) Sweep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eachShard(func(s *shard, now time.Time) { s.sweep(now) })
}
