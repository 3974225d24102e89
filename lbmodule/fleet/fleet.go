package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
	"github.com/google/uuid"
)

const (
	// folder is the folder of the documents in storage.
	folder = "load_balancer/nodes"
	// firstLook is how long a config serves before it reads the storage: a config that is rolled back at once leaves nothing there.
	firstLook = time.Second
	// timeout bounds one read, and one write.
	timeout = 10 * time.Second
	// longestRetry bounds the delay before a failed operation is retried.
	longestRetry = 5 * time.Minute
)

// Source is a config that serves.
type Source interface {
	// Storage returns the storage of the documents.
	Storage() certmagic.Storage
	// Serving reports whether this config is the latest that serves.
	Serving() bool
	// Describe returns this node's name, admin address, version and config, and its pools if pools is true. Pools list all of their
	// backends.
	Describe(pools bool) Node
}

// Fleet is a process's knowledge of its fleet. It outlives configs. Its methods are safe for concurrent use.
type Fleet struct {
	started time.Time
	boot    string        // unique to this process
	turn    chan struct{} // has an element while the storage is used

	// The goroutine that has the turn owns the fields below.
	key, id string
	beat    uint64
	wrote   bool              // the document is in storage, as far as is known
	steady  [sha256.Size]byte // of the document that was written last
	when    time.Time         // time of that write
	write   attempt
	look    attempt

	mu     sync.Mutex // guards the fields below; no function is called while it is held
	watch  watch
	self   *Node
	asOf   time.Time // time of the last successful read
	period time.Duration
	faults [2]string // errors of the last read, and of the last write; "" for none
}

// attempt is an operation that is retried with growing delays while it fails.
type attempt struct {
	failed bool
	delay  time.Duration
	next   time.Time
}

func (a *attempt) due(now time.Time) bool { return !now.Before(a.next) }

// end records the result of an attempt, and reports whether it differs from the previous one.
func (a *attempt) end(err error, now time.Time) (turned bool) {
	turned = a.failed != (err != nil)
	if a.failed = err != nil; !a.failed {
		*a = attempt{}
		return turned
	}
	a.delay = min(max(2*a.delay, shortest), longestRetry)
	a.next = now.Add(a.delay)
	return turned
}

// New returns a Fleet of one node. identity is unique to the node and the same after a restart; "" if it is not known.
func New(identity string) *Fleet {
	f := &Fleet{started: time.Now(), boot: uuid.NewString(), turn: make(chan struct{}, 1), period: shortest}
	if identity == "" {
		identity = f.boot
	}
	sum := sha256.Sum256([]byte(identity))
	f.call(uuid.NewSHA1(uuid.NameSpaceOID, sum[:]).String())
	return f
}

// call sets the node's ID.
func (f *Fleet) call(id string) { f.id, f.key = id, folder+"/"+id+".json" }

// Run keeps the document of this node and the view of the others up to date until ctx ends.
func (f *Fleet) Run(ctx context.Context, s Source, logger *zap.Logger) {
	wait := firstLook
	for {
		timer := time.NewTimer(wait - wait/10 + rand.N(wait/5))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if s.Serving() {
			f.step(ctx, s, logger)
		}
		f.mu.Lock()
		wait = f.period
		f.mu.Unlock()
	}
}

// step reads the documents of the others and writes this node's, if that is due.
func (f *Fleet) step(ctx context.Context, s Source, logger *zap.Logger) {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return
	}
	if f.look.due(time.Now()) {
		err := f.lookAround(ctx, s.Storage())
		if ctx.Err() != nil {
			return
		}
		if f.look.end(err, time.Now()) {
			tell(logger, err, "documents of other nodes cannot be read from storage; retrying", "documents of other nodes can be read from storage again")
		}
		f.fault(0, err)
	}
	n := f.describe(s)
	steady := n.steady()
	if now := time.Now(); f.write.due(now) && (steady != f.steady || !f.wrote || now.Sub(f.when) >= beats*f.pace()-f.pace()/2) {
		err := f.publish(ctx, s.Storage(), n, steady)
		if ctx.Err() != nil {
			return
		}
		if f.write.end(err, time.Now()) {
			tell(logger, err, "document of this node cannot be written to storage; retrying", "document of this node is written to storage again")
		}
		f.fault(1, err)
	}
}

func tell(logger *zap.Logger, err error, fails, works string) {
	if err != nil {
		logger.Warn(fails, zap.Error(err))
	} else {
		logger.Info(works)
	}
}

func (f *Fleet) fault(of int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.faults[of] = ""; err != nil {
		f.faults[of] = cut(err.Error())
	}
}

func (f *Fleet) pace() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.period
}

// describe returns the document of this node, and stores it for View. It describes the pools only if there is another node to read it.
func (f *Fleet) describe(s Source) *Node {
	f.mu.Lock()
	period := f.period
	alone := true
	for _, w := range f.watch.nodes {
		alone = alone && w.gone(f.asOf, period)
	}
	f.mu.Unlock()
	n := s.Describe(!alone)
	n.ID, n.Boot, n.Alone = f.id, f.boot, alone
	n.Period, n.Started, n.Written = period.Seconds(), f.started.UTC().Truncate(time.Millisecond), time.Now().UTC().Truncate(time.Millisecond)
	if n.Pools == nil {
		n.Pools = []Pool{}
	}
	n.shorten()
	n.Beat = f.beat
	f.mu.Lock()
	defer f.mu.Unlock()
	f.self = &n
	return &n
}

// publish writes the document of this node.
func (f *Fleet) publish(ctx context.Context, storage certmagic.Storage, n *Node, steady [sha256.Size]byte) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	f.beat++
	out := *n
	out.Beat = f.beat
	raw, err := encode(&out)
	if err != nil {
		return err
	}
	if err := storage.Store(ctx, f.key, raw); err != nil {
		return err
	}
	f.wrote, f.steady, f.when = true, steady, time.Now()
	return nil
}

// lookAround reads the documents of the other nodes, and removes those of nodes that have been gone for long.
func (f *Fleet) lookAround(ctx context.Context, storage certmagic.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	keys, err := storage.List(ctx, folder, false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return path.Ext(key) != ".json" })
	slices.Sort(keys)
	found, kept := make(map[string]*Node), make(map[string]bool)
	own := false
	for _, key := range keys {
		if key != f.key && len(found)+len(kept) == mostNodes {
			continue
		}
		raw, err := storage.Load(ctx, key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		n, err := decode(raw)
		switch {
		case err != nil:
			kept[key] = true // an incomplete document, if the storage does not write atomically, or one of a later version
		case key != f.key:
			found[key] = n
		default:
			own = true
			f.recognize(n)
		}
	}
	f.wrote = f.wrote && own // another node may have removed it
	now := time.Now()
	f.mu.Lock()
	past := f.watch.take(found, kept, now, f.period)
	f.asOf, f.period = now, periodOf(1+len(f.watch.nodes))
	f.mu.Unlock()
	for _, key := range past {
		if err := storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// recognize takes another ID if the document under this node's ID belongs to another process: two processes have the same identity, for
// example with one data directory on one host. A document from before this process's first write is of the same node before a restart.
func (f *Fleet) recognize(n *Node) {
	if f.wrote && n.Boot != f.boot {
		f.call(f.id + "-" + strings.ReplaceAll(f.boot, "-", "")[:8])
		f.wrote = false
	}
}

// Leave removes the document of this node when the node stops.
func (f *Fleet) Leave(ctx context.Context, storage certmagic.Storage) error {
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !f.wrote {
		return nil
	}
	f.wrote = false
	return storage.Delete(ctx, f.key)
}

// View is the fleet as this node sees it.
type View struct {
	Nodes       []Seen       `json:"nodes"` // this one first
	Differences []Difference `json:"differences"`
	More        int          `json:"more"`            // differences that are not listed
	Period      float64      `json:"period"`          // seconds between two reads
	Age         float64      `json:"age"`             // seconds since the last successful read
	Error       string       `json:"error,omitempty"` // why the storage cannot be read or written
}

// Brief returns v without the backends of the nodes' pools.
func (v *View) Brief() *View {
	brief := *v
	brief.Nodes = make([]Seen, len(v.Nodes))
	for i, s := range v.Nodes {
		n := *s.Node // the node is shared with other callers of View
		n.Pools = slices.Clone(n.Pools)
		for j := range n.Pools {
			n.Pools[j].Backends = []Backend{}
		}
		s.Node = &n
		brief.Nodes[i] = s
	}
	return &brief
}

// View returns the current view, which is empty before the first read.
func (f *Fleet) View() View {
	f.mu.Lock()
	o := View{Period: f.period.Seconds(), Nodes: []Seen{}}
	now := f.asOf // while the storage cannot be read, no node becomes silent
	if !now.IsZero() {
		o.Age = time.Since(now).Round(100 * time.Millisecond).Seconds()
	}
	for i, what := range []string{"reading: ", "writing: "} {
		if o.Error == "" && f.faults[i] != "" {
			o.Error = what + f.faults[i]
		}
	}
	o.Nodes = append(o.Nodes, f.watch.list(f.self, now, f.period)...)
	f.mu.Unlock()
	o.Differences, o.More = compare(o.Nodes)
	return o
}

// Count returns the numbers of nodes that are alive, including this one, and of those that are gone.
func (f *Fleet) Count() (alive, gone int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	alive = 1
	for _, w := range f.watch.nodes {
		if w.gone(f.asOf, f.period) {
			gone++
		} else {
			alive++
		}
	}
	return alive, gone
}
