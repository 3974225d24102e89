package canary

import (
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Side is one of the two parts of a pool.
type Side uint8

const (
	// Others are the backends that do not belong to the canary.
	Others Side = iota
	// Canary are the backends that do.
	Canary

	sides
)

// String returns the side as metrics show it.
func (s Side) String() string { return [sides]string{"others", "canary"}[s] }

// State is the state of a run.
type State uint8

const (
	// Running means that steps are still to come.
	Running State = iota
	// Paused means that the share stays until an operator changes it.
	Paused
	// Finished means that all steps were made.
	Finished
	// RolledBack means that the canary gets no requests.
	RolledBack
	// States is the number of states.
	States
)

// String returns the state as the API shows it.
func (s State) String() string {
	return [States]string{"running", "paused", "finished", "rolled_back"}[s]
}

// The reasons for the current share.
const (
	ReasonErrors  = "errors"
	ReasonLatency = "latency"
	ReasonStep    = "step"
	ReasonByHand  = "by hand"
)

// Settings are the settings of a run.
type Settings struct {
	Share float64 // first share of the clients
	Steps []Step

	Errors, Latency bool    // whether they are compared
	MoreErrors      float64 // tolerated additional failures of the canary, as a share of those of the others
	Slower          float64 // tolerated additional time of its answers, as a share
}

// Step is a change of the share, after that time at the previous share.
type Step struct {
	Share float64
	After time.Duration
}

// Change is a change of the share.
type Change struct {
	Share  float64
	State  State
	Reason string

	Elsewhere bool // another node made it
}

const (
	// everybody is the threshold for a share of 1.
	everybody = math.MaxUint64
	// leastTick is the shortest time between two comparisons. Several load balancers may share a run, and each calls Watch.
	leastTick = 500 * time.Millisecond
	// unsettled is how long after a change of the share nothing is compared: earlier requests would be counted for a side although the
	// other side has no such requests.
	unsettled = 3 * time.Second
)

// Run is a canary: its share, its timeline, and what has been counted. It is safe for concurrent use.
type Run struct {
	settings Settings
	salt     uint64

	threshold atomic.Uint64 // clients whose hash is below it belong to the canary
	counts    [sides]Counts
	rollbacks atomic.Uint64

	mu       sync.Mutex // guards the fields below
	guard    *guard
	state    State
	share    float64
	reason   string
	next     int           // index in settings.Steps
	waited   time.Duration // time that counts for it
	begun    time.Time     // zero before the config serves
	since    time.Time     // of the current share
	last     time.Time     // of the last comparison
	quiet    time.Time     // nothing is compared before
	before   [sides]tally  // counts at the last comparison
	revision uint64
	willed   uint64 // revision of the last change that was not a step
}

// New returns a run for the pool with that name. It has its first share at once, but its steps wait until [Run.Watch] is first called.
func New(pool string, s Settings) *Run {
	// Not the name alone: it may be a backend's address, which hash policies mix with keys as well.
	r := &Run{settings: s, salt: xxhash.Sum64String("canary of " + pool)}
	r.start()
	return r
}

// start sets the initial state of a run. The caller holds r.mu, unless no other goroutine knows r.
func (r *Run) start() {
	r.guard, r.state, r.next, r.waited = newGuard(&r.settings), Running, 0, 0
	if len(r.settings.Steps) == 0 {
		r.state = Finished
	}
	r.setShare(r.settings.Share, "")
}

// setShare sets the share. The caller holds r.mu.
func (r *Run) setShare(share float64, reason string) {
	r.share, r.reason = share, reason
	r.revision++
	threshold := uint64(everybody)
	if share < 1 {
		threshold = uint64(share * (1 << 64))
	}
	r.threshold.Store(threshold)
}

// All returns the side that has all clients; ok is false if both have clients.
func (r *Run) All() (s Side, ok bool) {
	switch r.threshold.Load() {
	case 0:
		return Others, true
	case everybody:
		return Canary, true
	default:
		return Others, false
	}
}

// SideOf returns the side of the client with that hash. As the share grows, clients move to the canary only.
func (r *Run) SideOf(key uint64) Side {
	if threshold := r.threshold.Load(); threshold == everybody || balance.Mix(key^r.salt) < threshold {
		return Canary
	}
	return Others
}

// Counts returns the counts of the requests of a side.
func (r *Run) Counts(s Side) *Counts { return &r.counts[s] }

// Off reports whether the canary gets no requests at all.
func (r *Run) Off() bool { return r.threshold.Load() == 0 }

// Watch compares the sides and advances the time. It returns the rollback that it made, if any, and must be called about once a second.
// [Run.Step] makes a step that is due.
func (r *Run) Watch(now time.Time) (changes []Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun.IsZero() {
		r.begun, r.last = now, now
		if r.since.IsZero() {
			r.since = now
		}
		for s := range r.counts {
			r.counts[s].read(&r.before[s])
		}
		return nil
	}
	passed := now.Sub(r.last)
	if passed < leastTick {
		return nil
	}
	r.last = now
	if reason := r.compare(now); reason != "" {
		r.state = RolledBack
		r.rollbacks.Add(1)
		change := r.move(0, reason, now)
		r.willed = r.revision
		return append(changes, change)
	}
	if r.state == Running {
		r.waited += passed
	}
	return nil
}

// Due reports whether a step is due.
func (r *Run) Due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due()
}

func (r *Run) due() bool { return r.state == Running && r.waited >= r.settings.Steps[r.next].After }

// Step makes a step if one is due.
func (r *Run) Step(now time.Time) (changes []Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.due() {
		return nil
	}
	step := &r.settings.Steps[r.next]
	r.waited, r.next = 0, r.next+1
	if r.next == len(r.settings.Steps) {
		r.state = Finished
	}
	return append(changes, r.move(step.Share, ReasonStep, now))
}

// compare reads the counters, and compares the sides if that is possible. The caller holds r.mu.
func (r *Run) compare(now time.Time) (reason string) {
	var more [sides]tally
	for s := range r.counts {
		var read tally
		r.counts[s].read(&read)
		more[s] = read.since(&r.before[s])
		r.before[s] = read
	}
	if r.share <= 0 || now.Before(r.quiet) {
		return ""
	}
	return r.guard.add(&more, now)
}

// move changes the share. The caller holds r.mu.
func (r *Run) move(share float64, reason string, now time.Time) Change {
	r.setShare(share, reason)
	r.since, r.quiet = now, now.Add(unsettled)
	r.guard.drop()
	return Change{Share: share, State: r.state, Reason: reason}
}

// Revision returns a text that changes with each change of the run.
func (r *Run) Revision() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tag()
}

func (r *Run) tag() string {
	return strconv.FormatInt(r.begun.UnixNano(), 36) + "-" + strconv.FormatUint(r.revision, 36)
}
