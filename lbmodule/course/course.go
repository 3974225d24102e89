package course

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Request is what a course needs to know about its request. Each method is called only when its result matters.
type Request interface {
	// Key returns the hash key that a policy such as lb_hash derives from the request.
	Key() pool.Key
	// ShadowKey is Key for the shadow policy.
	ShadowKey() pool.Key
	// Session finds the backend of the request's session. If it is among the members, known is true and position is its
	// place there. signed says that the request carries a valid session, whether or not its backend is among the members.
	Session(m Members) (position int, known, signed bool)
	// Origin identifies the client and the resource that it requests.
	Origin() pool.Origin
	// Client identifies the client in the pool's queue, which is fair between clients.
	Client() string
	// Idempotent reports whether making the request twice has the same effect as making it once.
	Idempotent() bool
	// Upgrade reports whether the request asks to switch protocols.
	Upgrade() bool
	// Rewindable reports whether the body can be sent again from its beginning, unless more of it is read before Rewind.
	Rewindable() bool
	// Rewind takes the body from the current attempt, so that the next one can send it from its beginning. If that is no longer possible,
	// it does nothing and returns false.
	Rewind() bool
	// EndInforming stops the informational answers (1xx) of the current attempt, and reports whether the client has received
	// none. Once it has one from a backend, the final answer must come from the same backend.
	EndInforming() bool
	// Wanted reports whether reverse_proxy's retry settings ask for another attempt after one that failed for that reason.
	Wanted(reason pool.RetryReason) bool
	// Deadline returns when the client stops waiting, if that is known.
	Deadline() (deadline time.Time, ok bool)
	// Foreign lets a selection policy of another module choose among the candidates, which are positions. It returns one of them, or -1 and a
	// target that the policy made up, or -1 and nil if the policy chose none.
	Foreign(m Members, candidates []int) (position int, own Target)
}

// Target is a backend that requests can be sent to.
type Target interface {
	// Address returns the address that identifies the backend.
	Address() string
}

// Source names the backends that a request may go to.
type Source interface {
	// Members returns the list to choose from. retry says that an attempt has failed.
	Members(retry bool) (Members, error)
	// Quiet reports whether the list can be replaced without closing a channel of [Members.Superseded].
	Quiet() bool
}

// Members is a list of backends to choose from. A list never changes; it is replaced by a new one.
type Members interface {
	// View returns the pool's view of this list.
	View() *pool.View
	// Target returns the backend at that position of the view.
	Target(position int) Target
	// Find returns the position of the backend with that address, -1 if it is not in the list.
	Find(address string) int
	// Superseded returns two channels; one of them is closed once another list has replaced this one. Both may be nil.
	Superseded() (first, second <-chan struct{})
	// Stay keeps the list's view open, and its dead members being redialed, until Leave has been called as many times.
	Stay()
	// Leave undoes one call of Stay.
	Leave()
}

// Do is the kind of a [Step].
type Do uint8

const (
	// Send makes an attempt at [Course.Choice]. [Course.Ended] follows.
	Send Do = iota
	// Wait waits until a time, or until a channel is closed. [Course.Resume] follows.
	Wait
	// Queue waits in the pool's queue, which calls [Course.Try]. [Course.Queued] follows.
	Queue
	// Give passes the answer of the last attempt to the client.
	Give
	// Fail tells the client that the last attempt failed.
	Fail
	// Refuse tells the client that no backend is available.
	Refuse
)

// Step is what the caller of a course must do next.
type Step struct {
	Do Do

	// Again says that the attempt follows a failed one, whose answer is dropped, and Reason says why that one failed.
	Again  bool
	Reason pool.RetryReason

	// Until is when waiting ends at the latest. It ends earlier when a channel of Wake is closed.
	Until time.Time
	Wake  [3]<-chan struct{}

	// Size bounds the number of requests in the queue, Timeout the time of this request in it.
	Size    int
	Timeout time.Duration

	// Err says why the request is refused.
	Err error
}

// Woken says why a wait ended.
type Woken uint8

const (
	// Elapsed means that [Step.Until] was reached.
	Elapsed Woken = iota
	// Signaled means that a channel of [Step.Wake] was closed.
	Signaled
	// Gone means that the client stopped waiting, or that the process is about to exit.
	Gone
)

// Choice is the backend of an attempt. The lease is empty if a selection policy of another module made up the backend.
type Choice struct {
	Target Target
	Lease  pool.Lease
}

// Course is the course of one request. It must be used by one goroutine at a time. [Course.Begin] starts it, and
// [Course.End] must be called in every case.
type Course struct {
	rules   *Rules
	pool    *pool.Pool
	source  Source
	request Request

	members Members // the list that the positions in choice, tried and session refer to
	view    *pool.View
	choice  Choice
	verdict pool.Verdict // about choice's backend; the part that has not been passed to the pool yet
	origin  pool.Origin
	key     pool.Key
	session session
	silent  bool // the source's last reply was an error

	attempts int
	tried    []int // positions of the members of failed attempts
	began    time.Time
	refused  error // why no backend was chosen; nil if one was

	phase    phase
	holding  bool           // the request is counted by the pool as waiting for a dead member
	retrying bool           // choosing again after an attempt that could not connect
	err      error          // the last error of choosing, while the request waits
	snapshot *pool.Snapshot // the one that choosing failed on, before the request began to wait
	slept    time.Time      // when the request began to wait
	queued   time.Duration

	reason    pool.RetryReason // for the attempt that is being reserved
	answered  bool             // the attempt before it has an answer, which is kept until the reservation succeeds
	overload  bool             // that answer has a Retry-After
	mayHold   bool             // the request may wait for a connection, because nothing was sent
	waited    bool             // the request has waited for a member to recover
	looks     int              // how many times it has waited for lb_try_interval
	gaveUp    bool             // lb_try_duration is over, and dead members are being redialed one last time
	heldUntil time.Time        // when waiting for first probes ends; zero before it begins

	lost     bool      // the last attempt could not connect
	unsent   int       // attempts that could not connect, which do not count
	patience time.Time // until when a request that could not connect may wait for a slot
	stays    Members   // the list that Stay was called on; nil for none
	holds    int       // how many times the request waited for a dead member to recover
	releases int       // how many times it waited, went on, and could not connect again
	before   int       // holds at the last attempt that could not connect

	outcome  pool.Outcome // of the current attempt
	last     Result       // of the attempt that ended last
	call     Call
	judged   bool          // the backend was judged before the gRPC call ended
	lastByte bool          // the latency counts to the end of the answer
	took     time.Duration // from the request's last byte to the answer's header
	known    bool          // took is known

	countedFailed bool // the attempt was counted as a failure of its side

	triedSpace [4]int // backing array for short tried lists

	shadowed pool.Shadowed // the shadow policy's decision; the lease refers to it
}

// Init makes the zero Course c the course of a request. [Course.Begin] returns its first step.
func (c *Course) Init(rules *Rules, p *pool.Pool, source Source, request Request) {
	c.rules, c.pool, c.source, c.request, c.session.member = rules, p, source, request, -1
}

// Begin starts the course. now is when the request arrived.
func (c *Course) Begin(now time.Time) Step {
	c.pool.CountRequest()
	c.began, c.origin = now, c.request.Origin()
	return c.choose(now)
}

// Members returns the list that the choice was made from; nil before the first choice.
func (c *Course) Members() Members { return c.members }

// Choice returns the backend of the current or the next attempt.
func (c *Course) Choice() *Choice { return &c.choice }

// Tried returns the positions of the members of failed attempts.
func (c *Course) Tried() []int { return c.tried }

// Attempts returns the number of attempts, including the current one.
func (c *Course) Attempts() int { return c.attempts }

// Began returns when the request arrived.
func (c *Course) Began() time.Time { return c.began }

// Waited returns how long the request has waited for a backend.
func (c *Course) Waited() time.Duration { return c.queued }

// Refused returns why no backend was found; nil if one was.
func (c *Course) Refused() error { return c.refused }

// Lost reports whether the last attempt could not connect.
func (c *Course) Lost() bool { return c.lost }

// send returns the step that makes an attempt at the choice.
func (c *Course) send(again bool) Step {
	c.phase = sending
	c.attempts++
	c.verdict, c.outcome, c.lastByte, c.judged, c.call = pool.Verdict{}, pool.Ignored, false, false, Call{}
	c.countedFailed = false
	return Step{Do: Send, Again: again, Reason: c.reason}
}

// Refuse ends a course that has not begun, because no backend can be found for any request, or none may be tried.
func (c *Course) Refuse(err error) {
	c.phase, c.refused = over, err
}

// refuse returns the step that tells the client that no backend is available.
func (c *Course) refuse(err error) Step {
	c.phase, c.refused = over, err
	return Step{Do: Refuse, Err: err}
}

// stay keeps the members' view open until leave is called.
func (c *Course) stay() {
	if c.stays == c.members {
		return
	}
	c.members.Stay() // before leave, so that members of both lists are redialed without a gap
	c.leave()
	c.stays = c.members
}

// leave undoes stay.
func (c *Course) leave() {
	if c.stays != nil {
		c.stays.Leave()
		c.stays = nil
	}
}

// Repeatable reports whether the request may be sent again even if a backend has acted on it.
func (c *Course) Repeatable() bool {
	return !c.request.Upgrade() && (c.rules.Retry.NonIdempotent || c.request.Idempotent())
}
