package manage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/canary"
)

const (
	canaryFormat = "ballast canary"
	canarySchema = 1
	// maxCanary is the largest size of a valid document.
	maxCanary = 16 << 10
)

// canaryDocument is the stored state of a pool's canary.
type canaryDocument struct {
	Format   string    `json:"format"`
	Schema   int       `json:"schema"`
	Pool     string    `json:"pool"`
	Settings string    `json:"settings"` // digest of the settings of the canary that the state belongs to
	Number   uint64    `json:"number"`   // increases with each change, on any node
	State    string    `json:"state"`
	Share    float64   `json:"share"`
	Next     int       `json:"next"`   // index of the next step
	Waited   float64   `json:"waited"` // time in seconds that counts for the step, when this was written
	Reason   string    `json:"reason"`
	Since    time.Time `json:"since"`   // of the current share
	Written  time.Time `json:"written"` // by the clock of the writing node
	Node     string    `json:"node"`    // the process that made the change
}

// errLater means that a newer version has written the document, which must not be overwritten.
var errLater = errors.New("document is of a later version")

// errUnfit means that a canary with these settings cannot have the state in the document.
var errUnfit = errors.New("document does not fit the canary's settings")

// decodeCanary parses the document of a pool's canary.
func decodeCanary(pool string, raw []byte) (*canaryDocument, error) {
	d := new(canaryDocument)
	if err := json.Unmarshal(raw, d); err != nil {
		return nil, err
	}
	switch {
	case d.Format != canaryFormat || d.Schema < 1 || d.Pool != pool || d.Number == 0 || d.Number > 1<<53:
		return nil, errors.New("not the document of this pool's canary")
	case d.Schema > canarySchema:
		return nil, fmt.Errorf("schema %d: %w", d.Schema, errLater)
	case d.Waited < 0 || d.Waited > maxWaited.Seconds():
		return nil, fmt.Errorf("waited for %v s", d.Waited)
	}
	if _, known := d.state(); !known {
		return nil, fmt.Errorf("state %.20q", d.State)
	}
	switch d.Reason {
	case "", canary.ReasonErrors, canary.ReasonLatency, canary.ReasonStep, canary.ReasonByHand:
		return d, nil
	default:
		return nil, fmt.Errorf("reason %.20q", d.Reason)
	}
}

// maxWaited is longer than any step lasts.
const maxWaited = 10 * 365 * 24 * time.Hour

func (d *canaryDocument) state() (canary.State, bool) {
	for s := range canary.States {
		if s.String() == d.State {
			return s, true
		}
	}
	return 0, false
}

// standing returns the progress in the document, for a run with that revision.
func (d *canaryDocument) standing(revision uint64) canary.Standing {
	state, _ := d.state()
	return canary.Standing{
		State: state, Share: d.Share, Reason: d.Reason, Next: d.Next, Waited: time.Duration(d.Waited * float64(time.Second)), Since: d.Since,
		Revision: revision,
	}
}

// Canary stores the progress of a canary in Caddy's storage, which several nodes may share. The load balancers of a process with the same
// canary share a Canary.
type Canary struct {
	run      *canary.Run
	pool     string
	key      string
	settings string // digest
	refs     int    // guarded by canaries.mu
	load     sync.Once
	kept     atomic.Uint64 // the revision of the run that is stored, or need not be
	failed   atomic.Bool   // the last round has failed

	turn chan struct{} // holds an element while the storage is used

	// The goroutine that has the turn owns the fields below.
	locker  locker
	number  uint64 // of the last change known here
	node    string // that made this change
	storage certmagic.Storage
	seen    certmagic.KeyInfo
	found   *canaryDocument // the document that was last read; nil if there is none or it is unreadable
	later   error           // why it must not be overwritten
}

// canaries are the canaries of a pool: one, or two while one config replaces another.
type canaries struct {
	mu    sync.Mutex
	byRun map[*canary.Run]*Canary
}

// Canary returns the Canary that stores the run. description describes the run's settings. A new run adopts the stored progress for these
// settings. release undoes Canary.
func (m *Manager) Canary(ctx context.Context, run *canary.Run, description string, storage certmagic.Storage, logger *zap.Logger) (c *Canary, release func()) {
	all := &m.canaries
	all.mu.Lock()
	c = all.byRun[run]
	if c == nil {
		if all.byRun == nil {
			all.byRun = make(map[*canary.Run]*Canary)
		}
		sum := sha256.Sum256([]byte(description))
		name := m.keeper.pool
		key := storageKey("canaries", name)
		c = &Canary{
			run: run, pool: name, key: key, settings: hex.EncodeToString(sum[:16]), turn: make(chan struct{}, 1), locker: locker{key: key},
		}
		c.kept.Store(run.Standing().Revision)
		all.byRun[run] = c
	}
	c.refs++
	all.mu.Unlock()
	c.load.Do(func() { c.begin(ctx, storage, logger) })
	return c, sync.OnceFunc(func() {
		all.mu.Lock()
		defer all.mu.Unlock()
		if c.refs--; c.refs == 0 {
			delete(all.byRun, c.run)
		}
	})
}

// begin adopts the stored progress, if it is of a canary with these settings. It writes nothing: the config may never serve.
func (c *Canary) begin(ctx context.Context, storage certmagic.Storage, logger *zap.Logger) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	broken, err := c.read(ctx, storage)
	if d := c.found; err == nil && d != nil && d.Settings == c.settings {
		_, revision, ok := c.run.Adopt(d.standing(c.kept.Load()), time.Now())
		if ok {
			c.number, c.node = d.Number, d.Node
			c.kept.Store(revision)
			return
		}
		c.found, broken = nil, errUnfit
	}
	if err = errors.Join(broken, err); err != nil {
		logger.Error("state of canary cannot be read; canary starts again", zap.String("pool", c.pool), zap.String("key", c.key), zap.Error(err))
		c.failed.Store(broken == nil)
	}
}

// Pending reports whether a change must be written. It is false while the storage fails.
func (c *Canary) Pending() bool {
	return c.run.Standing().Revision != c.kept.Load() && !c.failed.Load()
}

// Kept is the result of [Canary.Keep].
type Kept struct {
	Changes []canary.Change // of the run
	Turn    Turn            // whether the storage has begun to fail or to work
	Err     error           // why the storage cannot be used
	Broken  error           // why the document cannot be read; it counts as missing
	Failing bool
}

// Keep reconciles the run with storage: it adopts a change of another node, makes a step that is due, and writes changes made here. While
// the storage fails, this node continues on its own.
func (c *Canary) Keep(ctx context.Context, storage certmagic.Storage) (k Kept) {
	ctx, cancel := context.WithTimeout(ctx, StorageTimeout)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return k // the holder of the turn reports errors
	}
	k.Err = c.round(ctx, storage, &k)
	if k.Err != nil {
		k.Changes = append(k.Changes, c.run.Step(time.Now())...)
	}
	k.Failing = k.Err != nil
	k.Turn = turn(c.failed.Swap(k.Failing), k.Failing)
	return k
}

func (c *Canary) round(ctx context.Context, storage certmagic.Storage, k *Kept) (err error) {
	if k.Broken, err = c.read(ctx, storage); err != nil || c.agree(nil, k) {
		return err
	}
	// There is a change to write. If the storage cannot be locked, it is written without the lock.
	if within, cancel := context.WithTimeout(ctx, agreeTimeout); c.locker.lock(within, storage) == nil {
		defer func() { _ = storage.Unlock(context.WithoutCancel(ctx), c.key) }()
		cancel()
	} else {
		cancel()
	}
	if broken, err := c.read(ctx, storage); err != nil {
		return err
	} else if broken != nil {
		k.Broken = broken
	}
	c.agree(func(d *canaryDocument) {
		var raw []byte
		if raw, err = json.Marshal(d); err != nil {
			return
		}
		if err = ctx.Err(); err != nil {
			return
		}
		if err = storage.Store(ctx, c.key, raw); err == nil {
			c.found = d
			c.seen, _ = storage.Stat(ctx, c.key) // if it fails, the document is read once more
		}
	}, k)
	return err
}

// agree decides between the run and the document in storage. With write nil it reports false if there is a change to write, or a step to
// make.
func (c *Canary) agree(write func(*canaryDocument), k *Kept) bool {
	for {
		s, d := c.run.Standing(), c.found
		kept := c.kept.Load()
		own := s.Revision != kept
		foreign := d != nil && d.Settings != c.settings
		news := d != nil && !foreign && (d.Number > c.number || d.Number == c.number && d.Node != c.node)
		if news {
			theirs := d.standing(s.Revision)
			mine := own && s.Willed > kept || d.Number == c.number && s.State == canary.RolledBack
			// A rollback is never lost. A step yields to changes of other nodes, and so does a node without changes of its own. Two nodes
			// can write the same number only without a lock.
			if theirs.State == canary.RolledBack || !mine {
				if !c.run.Fits(&theirs) {
					c.found, k.Broken = nil, errUnfit
					continue
				}
				change, revision, ok := c.run.Adopt(theirs, time.Now())
				if !ok {
					continue // the run was changed here meanwhile
				}
				c.number, c.node = d.Number, d.Node
				c.kept.Store(revision)
				change.Elsewhere = d.Node != node
				k.Changes = append(k.Changes, change)
				return true
			}
		}
		lost := c.number > 0 && (d == nil || !foreign && d.Number < c.number)
		due := c.run.Due()
		switch {
		case !own && !news && !lost && !due:
			return true
		case write == nil:
			return false
		case due:
			k.Changes = append(k.Changes, c.run.Step(time.Now())...)
			continue
		}
		number, by := c.number, c.node
		if own || news {
			number, by = number+1, node
			if d != nil {
				number = max(number, d.Number+1)
			}
		}
		before := c.found
		write(&canaryDocument{
			Format: canaryFormat, Schema: canarySchema, Pool: c.pool, Settings: c.settings, Number: number, State: s.State.String(), Share: s.Share,
			Next: s.Next, Waited: s.Waited.Seconds(), Reason: s.Reason, Since: s.Since.UTC(), Written: time.Now().UTC(), Node: by,
		})
		if c.found == before {
			return false // the write failed
		}
		c.number, c.node = number, by
		c.kept.Store(s.Revision)
		return true
	}
}

// read reads the document in storage, unless it was already read.
func (c *Canary) read(ctx context.Context, storage certmagic.Storage) (broken, err error) {
	seen, err := storage.Stat(ctx, c.key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.seen, c.found, c.later, c.storage = certmagic.KeyInfo{}, nil, nil, storage
		return nil, nil
	case err != nil:
		return nil, err
	case c.storage == storage && !seen.Modified.IsZero() && seen.Modified.Equal(c.seen.Modified) && seen.Size == c.seen.Size:
		return nil, c.later
	}
	var d *canaryDocument
	if seen.Size > maxCanary {
		broken = fmt.Errorf("it has %d bytes", seen.Size)
	} else {
		var raw []byte
		if raw, err = storage.Load(ctx, c.key); err != nil {
			return nil, err
		}
		d, broken = decodeCanary(c.pool, raw)
	}
	c.seen, c.found, c.later, c.storage = seen, d, nil, storage
	if errors.Is(broken, errLater) {
		c.later, broken = broken, nil
	}
	return broken, c.later
}

// ForgetCanary removes the stored state of a canary that the pool had, once no config in this process has one.
func (m *Manager) ForgetCanary(ctx context.Context, storage certmagic.Storage) error {
	ticker := time.NewTicker(storageInterval)
	defer ticker.Stop()
	for m.hasCanary() { // the previous config may be serving its last requests
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
	ctx, cancel := context.WithTimeout(ctx, StorageTimeout)
	defer cancel()
	key := storageKey("canaries", m.keeper.pool)
	if _, err := storage.Stat(ctx, key); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return storage.Delete(ctx, key)
}

func (m *Manager) hasCanary() bool {
	m.canaries.mu.Lock()
	defer m.canaries.mu.Unlock()
	return len(m.canaries.byRun) > 0
}
