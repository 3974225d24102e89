package course

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Request is what a course asks about the request that it is for. Its methods are called only when the answer matters.
type Request interface {
	// Key is what policies that choose by a key make of the request.
	Key() pool.Key
	// Session finds the backend of the request's session. position is its place among the members, and known tells whether
	// there is one. signed tells that the request names a backend of ours, whether or not it is among the members.
	Session(m Members) (position int, known, signed bool)
	// Origin tells who sent the request and what it is for.
	Origin() pool.Origin
	// Client is what clients are told apart by where they wait in line.
	Client() string
	// Idempotent tells whether making the request twice is as good as making it once.
	Idempotent() bool
	// Upgrade tells whether the request asks to switch protocols.
	Upgrade() bool
	// Rewindable tells whether the body can be sent once more from its beginning.
	Rewindable() bool
	// Untold tells whether the client has been told nothing yet about the current attempt, and sees to it that it will
	// not be: after an informational answer of one backend no other may give the final one.
	Untold() bool
	// Wanted tells whether the words of reverse_proxy ask for another attempt after one that ended for that reason.
	Wanted(reason pool.RetryReason) bool
	// Deadline is when the client stops waiting, if that is known.
	Deadline() (deadline time.Time, ok bool)
	// Foreign has a selection policy that is not ours choose among these positions. It returns one of them, or -1 and a
	// target of the policy's own making, or -1 and nil for nobody.
	Foreign(m Members, candidates []int) (position int, own Target)
}

// Target is a backend as those see it who send requests there.
type Target interface {
	// Address is the address by which the backend is known.
	Address() string
}

// Source names the backends that a request may go to.
type Source interface {
	// Members returns the list to choose from. retry tells that an attempt has failed.
	Members(retry bool) (Members, error)
	// Quiet tells that the list may become another one without [Members.Superseded] saying so.
	Quiet() bool
}

// Members is a list of backends to choose from. It does not change; another one takes its place.
type Members interface {
	// View is the pool as it is seen with this list.
	View() *pool.View
	// Target is the backend at that position of the view.
	Target(position int) Target
	// Find is the position of the backend of that address, -1 if it is not in the list.
	Find(address string) int
	// Superseded returns what is closed when another list takes this one's place, or has already. Both may be nil.
	Superseded() (first, second <-chan struct{})
	// Stay keeps the list's view open, and has its dead members tried, until Leave is called as often.
	Stay()
	// Leave ends what Stay began.
	Leave()
}

// Do is what is to be done next.
type Do uint8

const (
	// Send is to make an attempt on the choice of the course, and to tell [Course.Ended].
	Send Do = iota
	// Wait is to wait until a time, or until the step is woken, and to tell [Course.Resume].
	Wait
	// Queue is to wait in the pool's queue with [Course.Try], and to tell [Course.Queued].
	Queue
	// Give is to give the client the answer of the last attempt.
	Give
	// Fail is to tell the client that the last attempt failed.
	Fail
	// Refuse is to tell the client that there is no backend for it.
	Refuse
)

// Step is what is to be done next.
type Step struct {
	Do Do

	// Again tells that the attempt to be made follows one that failed, and Reason why. The answer of that one is dropped.
	Again  bool
	Reason pool.RetryReason

	// Until is when waiting ends at the latest, and Wake what ends it before when one of them is closed.
	Until time.Time
	Wake  [3]<-chan struct{}

	// Size is how many requests may be in the queue, and Timeout how long the request may be there.
	Size    int
	Timeout time.Duration

	// Err is why the request is refused.
	Err error
}

// Woken is why waiting ended.
type Woken uint8

const (
	// Elapsed is that the time has come.
	Elapsed Woken = iota
	// Signaled is that what was waited for has happened.
	Signaled
	// Gone is that the client does not wait any longer.
	Gone
)

// Choice is a backend that was chosen. The lease holds nothing where a selection policy came up with a backend of its own.
type Choice struct {
	Target Target
	Lease  pool.Lease
}

// Course is the course of one request. It is used by one goroutine at a time. [Course.Begin] starts it, and
// [Course.End] must end it, however it went.
type Course struct {
	rules   *Rules
	pool    *pool.Pool
	source  Source
	request Request

	members Members // that choice, tried and session refer to
	view    *pool.View
	choice  Choice
	verdict pool.Verdict // of the attempt that choice is for, as far as the pool has not been told
	origin  pool.Origin
	key     pool.Key
	session session
	silent  bool // the source has not answered when it was asked last

	attempts int
	tried    []int // positions of the members of attempts that failed
	began    time.Time
	refused  error // why nobody was chosen; nil if somebody was

	phase    phase
	holding  bool           // it counts as one that waits for a dead member
	retrying bool           // it chooses after an attempt that found no connection
	err      error          // why choosing did not succeed, while it waits
	snapshot *pool.Snapshot // that was looked at before it began to wait
	slept    time.Time      // when it began to wait
	queued   time.Duration

	reason    pool.RetryReason // of the attempt that is being reserved
	answered  bool             // the attempt before it has an answer, which is kept until then
	overload  bool             // that answer says when to come back
	mayHold   bool             // the request may wait for a connection: nothing was sent
	waited    bool             // it has waited for a member to be back
	looks     int              // how often it has waited for lb_try_interval
	gaveUp    bool             // that time is up, and the dead are being tried once more
	heldUntil time.Time        // until when to wait for first probes; zero if there was no need to so far

	lost     bool      // no connection could be made for the last attempt
	unsent   int       // attempts that do not count, because of that
	patience time.Time // until when it may wait for a slot, because of that
	stays    Members   // that live for the request's sake; nil if there are none
	holds    int       // how often it waited for a member to be back
	releases int       // how often it went on after that, having found a member gone
	before   int       // holds when the last attempt had found no connection

	outcome  pool.Outcome // of the current attempt
	last     Result       // of the attempt that ended last
	call     Call
	judged   bool          // the backend has been judged before the call has ended
	lastByte bool          // how long the attempt takes is known when its answer has ended
	took     time.Duration // until the answer's header, from the request's last byte on
	known    bool          // took is

	triedSpace [4]int // room for most tried lists
}

// New returns the course of a request. [Course.Begin] gives its first step.
func New(rules *Rules, p *pool.Pool, source Source, request Request) Course {
	return Course{rules: rules, pool: p, source: source, request: request, session: session{member: -1}}
}

// Begin starts the course, at the time when the request came.
func (c *Course) Begin(now time.Time) Step {
	c.pool.CountRequest()
	c.began, c.origin = now, c.request.Origin()
	return c.choose(now)
}

// Members are those that the choice was made from; nil before there was one.
func (c *Course) Members() Members { return c.members }

// Choice is the backend of the current attempt, or of the one to be made.
func (c *Course) Choice() *Choice { return &c.choice }

// Tried are the positions of the members of attempts that failed.
func (c *Course) Tried() []int { return c.tried }

// Attempts is how many attempts have been made, the current one among them.
func (c *Course) Attempts() int { return c.attempts }

// Began is when the request came.
func (c *Course) Began() time.Time { return c.began }

// Waited is how long the request has waited for a backend.
func (c *Course) Waited() time.Duration { return c.queued }

// Refused is why no backend was found; nil if one was.
func (c *Course) Refused() error { return c.refused }

// Lost tells whether no connection could be made for the last attempt.
func (c *Course) Lost() bool { return c.lost }

// send makes an attempt on the choice the next step.
func (c *Course) send(again bool) Step {
	c.phase = sending
	c.attempts++
	c.verdict, c.outcome, c.lastByte, c.judged, c.call = pool.Verdict{}, pool.Ignored, false, false, Call{}
	return Step{Do: Send, Again: again, Reason: c.reason}
}

// Refuse ends a course that has not begun: nobody could be found, whatever the request is, or nobody is to be asked.
func (c *Course) Refuse(err error) {
	c.phase, c.refused = over, err
}

// refuse makes it the next step to tell the client that there is nobody.
func (c *Course) refuse(err error) Step {
	c.phase, c.refused = over, err
	return Step{Do: Refuse, Err: err}
}

// stay keeps the members alive until leave is called.
func (c *Course) stay() {
	if c.stays == c.members {
		return
	}
	c.members.Stay() // before it leaves others: members of both are to be tried without a gap
	c.leave()
	c.stays = c.members
}

// leave ends what stay began.
func (c *Course) leave() {
	if c.stays != nil {
		c.stays.Leave()
		c.stays = nil
	}
}

// Repeatable tells whether the request may be made again when a backend may have acted on it already.
func (c *Course) Repeatable() bool {
	return !c.request.Upgrade() && (c.rules.Retry.NonIdempotent || c.request.Idempotent())
}
