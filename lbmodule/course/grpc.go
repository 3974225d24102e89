package course

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The outcome of a gRPC call is its gRPC status; HTTP's is 200 nearly always. It stands in the header of an answer that has nothing
// else (trailers-only), and after the body of all others. So an answer with a body is judged when it has ended, and not before: what
// fails at its end was no success at its beginning. gRPC-Web has its trailers in the body, where nobody looks for them: only a status
// in the header is seen there.

// grpcNames are the statuses of gRPC by their codes, as its documentation names them (github.com/grpc/grpc, doc/statuscodes.md).
var grpcNames = [...]string{
	"ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}

// What is counted has a place for each of them, and one for all others.
var _ [pool.Calls]struct{} = [len(grpcNames) + 1]struct{}{}

// GRPCNames are the names of gRPC's statuses, by their codes.
func GRPCNames() []string { return slices.Clone(grpcNames[:]) }

// GRPC is how a gRPC call ended: 1 more than the code of its status.
type GRPC uint8

const (
	// NoGRPC is that there is no status: it is no gRPC call, or has not ended.
	NoGRPC GRPC = 0
	// OtherGRPC is a status that gRPC does not have, or none where there must be one.
	OtherGRPC = GRPC(len(grpcNames) + 1)
)

// ParseGRPC reads a status as it stands in a header or a trailer; "" is none.
func ParseGRPC(value string) GRPC {
	if value == "" {
		return NoGRPC
	}
	code, err := strconv.Atoi(value)
	if err != nil || code < 0 || code >= len(grpcNames) {
		return OtherGRPC
	}
	return GRPC(code + 1)
}

// code is the status as gRPC's clients take it: what gRPC does not have is unknown. There must be one.
func (s GRPC) code() codes.Code {
	if s == OtherGRPC {
		return codes.Unknown
	}
	return codes.Code(s - 1)
}

// String returns the status as logs and metrics show it, "" for none.
func (s GRPC) String() string {
	switch s {
	case NoGRPC:
		return ""
	case OtherGRPC:
		return "other"
	default:
		return grpcNames[s-1]
	}
}

// Call is what is known of an attempt as a gRPC call. The zero Call is of an attempt that is none.
type Call struct {
	Status  GRPC
	Excused bool          // it ended because the time was up that the client had set
	Pending bool          // the status is in the trailer of the answer
	Timeout time.Duration // that the client has set; 0 for none

	begun bool // a part of the body has come
}

// Message is what tells of a gRPC call in the header of a request or an answer. The zero Message is none of gRPC.
type Message struct {
	Is      bool   // it is one of gRPC, or of gRPC-Web
	Web     bool   // it is one of gRPC-Web
	Status  string // Grpc-Status
	Timeout string // Grpc-Timeout
}

// NewCall returns what is known of an attempt as a gRPC call, from the request and the answer that came so long after the client had
// asked. answer is nil if there is none; status is that of HTTP, and body tells that the answer has one.
func NewCall(request Message, answer *Message, status int, body bool, after time.Duration) (c Call) {
	if !request.Is || answer != nil && !answer.Is {
		return c
	}
	c.Timeout = grpcTimeout(request.Timeout)
	if answer == nil {
		c.Excused = c.timeUp(after) // servers break off what has taken too long
		return c
	}
	switch code := ParseGRPC(answer.Status); {
	case code != NoGRPC:
		c.end(code, after)
	case status != statusOK || answer.Web:
		// The status of HTTP is all there is.
	case !body:
		c.end(OtherGRPC, after)
	default:
		c.Pending = true
	}
	return c
}

const statusOK = 200

// end notes how the call ended, that long after the client had asked.
func (c *Call) end(status GRPC, after time.Duration) {
	c.Status, c.Pending = status, false
	c.Excused = c.is(codes.DeadlineExceeded) && c.timeUp(after)
}

// timeUp tells whether the time that the client has set is over when so much has passed. Clocks differ, and timers are not exact.
func (c *Call) timeUp(after time.Duration) bool {
	return c.Timeout > 0 && after >= c.Timeout-c.Timeout/10
}

// is tells whether the call has ended with that code.
func (c *Call) is(code codes.Code) bool { return c.Status != NoGRPC && c.Status.code() == code }

// ownDoing tells whether the call ended because its client wanted it to.
func (c *Call) ownDoing() bool { return c.Excused || c.is(codes.Canceled) }

// outcome is what the call says about its backend, as far as it is known.
func (c *Call) outcome(failures *Statuses) pool.Outcome {
	switch {
	case c.Excused, c.is(codes.ResourceExhausted):
		return pool.Ignored
	case failures.HasGRPC(c.Status):
		return pool.Failure
	case c.ownDoing():
		return pool.Ignored
	default:
		return pool.Success
	}
}

// speaksAgainst is [Facts.speaksAgainst] for calls: the statuses are those that Envoy takes for 429 and 5xx (grpcToHttpStatus).
func (c *Call) speaksAgainst() bool {
	if c.Status == NoGRPC || c.Excused {
		return false
	}
	switch c.Status.code() {
	case codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// grpcTimeout reads the value of a grpc-timeout, 0 for none.
func grpcTimeout(value string) time.Duration {
	const most = 8 // digits
	if len(value) < 2 || len(value) > most+1 {
		return 0
	}
	n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
	if err != nil {
		return 0
	}
	unit, ok := grpcUnits[value[len(value)-1]]
	if !ok {
		return 0
	}
	const longest = 1 << 62
	return time.Duration(min(n, uint64(longest/unit))) * unit
}

// grpcUnits are the units of a grpc-timeout (gRPC over HTTP/2, Requests).
var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// GRPCPrefix is what a status of gRPC begins with where those of HTTP may stand, too.
const GRPCPrefix = "grpc:"

// Statuses is a set of statuses of HTTP and gRPC.
type Statuses struct {
	http []int
	grpc uint32 // a bit for each code
}

// Add puts a status into the set, which has been checked: a number, or `grpc:` and a name of [GRPCNames].
func (s *Statuses) Add(value string) {
	if word, isGRPC := strings.CutPrefix(value, GRPCPrefix); isGRPC {
		s.grpc |= 1 << slices.Index(grpcNames[:], word)
		return
	}
	code, _ := strconv.Atoi(value)
	s.http = append(s.http, code)
}

// NewStatuses returns the set of these statuses, see [Statuses.Add].
func NewStatuses[S ~string](all []S) (set Statuses) {
	for _, value := range all {
		set.Add(string(value))
	}
	return set
}

// Empty tells whether there is nothing in the set.
func (s *Statuses) Empty() bool { return len(s.http) == 0 && s.grpc == 0 }

// SomeGRPC tells whether there are statuses of gRPC in the set.
func (s *Statuses) SomeGRPC() bool { return s.grpc != 0 }

// Has tells whether the status of an answer, or of the gRPC call that it belongs to, is in the set.
func (s *Statuses) Has(status int, call GRPC) bool { return s.HasHTTP(status) || s.HasGRPC(call) }

// HasHTTP tells whether a status of HTTP is in the set.
func (s *Statuses) HasHTTP(status int) bool { return slices.Contains(s.http, status) }

// HasGRPC tells whether the status of a gRPC call is in the set.
func (s *Statuses) HasGRPC(call GRPC) bool { return call != NoGRPC && s.grpc&(1<<call.code()) != 0 }
