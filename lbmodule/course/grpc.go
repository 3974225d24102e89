package course

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The outcome of a gRPC call is its gRPC status; the HTTP status is nearly always 200. The gRPC status is in the header if the answer has
// no body (trailers-only), and in the trailer otherwise. So an answer with a body is judged at its end: a call that fails there was not a
// success at its beginning. gRPC-Web puts its trailers into the body, which is not parsed: only a status in the header is seen.

// grpcNames are the statuses of gRPC by their codes, as its documentation names them (github.com/grpc/grpc, doc/statuscodes.md).
var grpcNames = [...]string{
	"ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}

// The pool has a counter for each status, and one for all others.
var _ [pool.Calls]struct{} = [len(grpcNames) + 1]struct{}{}

// GRPCNames returns the names of gRPC's statuses in the order of their codes.
func GRPCNames() []string { return slices.Clone(grpcNames[:]) }

// GRPC is how a gRPC call ended: 1 more than the code of its status.
type GRPC uint8

const (
	// NoGRPC means that there is no status: the attempt is not a gRPC call, or has not ended.
	NoGRPC GRPC = 0
	// OtherGRPC means that the status is not one of gRPC's, or is missing where one is required.
	OtherGRPC = GRPC(len(grpcNames) + 1)
)

// ParseGRPC parses the value of Grpc-Status; "" means that there is none.
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

// code returns the code as gRPC clients see it, which treat an invalid status as unknown. s must not be NoGRPC.
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

// Call is what is known of an attempt as a gRPC call. It is zero if the attempt is not a gRPC call.
type Call struct {
	Status  GRPC
	Excused bool          // it ended because the client's timeout expired
	Pending bool          // the status will be in the trailer of the answer
	Timeout time.Duration // set by the client; 0 for none

	begun bool // body data has arrived
}

// Message is what the header of a request or an answer says about gRPC. It is zero if the message is not gRPC.
type Message struct {
	Is      bool   // it is gRPC or gRPC-Web
	Web     bool   // it is gRPC-Web
	Status  string // Grpc-Status
	Timeout string // Grpc-Timeout
}

// NewCall returns what is known of an attempt as a gRPC call, from the request and its answer. answer is nil if there is none, status is
// the HTTP status, body says that the answer has a body, and after is the time since the client's request arrived.
func NewCall(request Message, answer *Message, status int, body bool, after time.Duration) (c Call) {
	if !request.Is || answer != nil && !answer.Is {
		return c
	}
	c.Timeout = grpcTimeout(request.Timeout)
	if answer == nil {
		c.Excused = c.timeUp(after) // gRPC servers reset the stream of a call whose timeout expired
		return c
	}
	switch code := ParseGRPC(answer.Status); {
	case code != NoGRPC:
		c.end(code, after)
	case status != statusOK || answer.Web:
		// There is only the HTTP status.
	case !body:
		c.end(OtherGRPC, after)
	default:
		c.Pending = true
	}
	return c
}

const statusOK = 200

// end records the status of the call, that long after the client's request arrived.
func (c *Call) end(status GRPC, after time.Duration) {
	c.Status, c.Pending = status, false
	c.Excused = c.is(codes.DeadlineExceeded) && c.timeUp(after)
}

// timeUp reports whether the client's timeout has expired after that time. It allows for 10%, because clocks and timers are not exact.
func (c *Call) timeUp(after time.Duration) bool {
	return c.Timeout > 0 && after >= c.Timeout-c.Timeout/10
}

// is reports whether the call has ended with that code.
func (c *Call) is(code codes.Code) bool { return c.Status != NoGRPC && c.Status.code() == code }

// endedByClient reports whether the client itself ended the call, by canceling or by its timeout.
func (c *Call) endedByClient() bool { return c.Excused || c.is(codes.Canceled) }

// outcome returns what the call says about its backend so far.
func (c *Call) outcome(failures *Statuses) pool.Outcome {
	switch {
	case c.Excused, c.is(codes.ResourceExhausted):
		return pool.Ignored
	case failures.HasGRPC(c.Status):
		return pool.Failure
	case c.endedByClient():
		return pool.Ignored
	default:
		return pool.Success
	}
}

// isOverload reports whether the status says that the backend is overloaded.
func (c *Call) isOverload() bool { return c.is(codes.ResourceExhausted) || c.is(codes.Unavailable) }

// isRejection is [Facts.isRejection] for calls: it is true for the statuses that Envoy maps to 429 and 5xx (grpcToHttpStatus).
func (c *Call) isRejection() bool {
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

// grpcTimeout parses the value of Grpc-Timeout; 0 means that there is none.
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

// grpcUnits are the units of Grpc-Timeout (gRPC over HTTP/2, Requests).
var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// GRPCPrefix marks a gRPC status in a list that may also hold HTTP statuses.
const GRPCPrefix = "grpc:"

// Statuses is a set of HTTP and gRPC statuses.
type Statuses struct {
	http []int
	grpc uint32 // a bit for each code
}

// Add adds a status to the set. value must be valid: a number, or `grpc:` and a name of [GRPCNames].
func (s *Statuses) Add(value string) {
	if word, isGRPC := strings.CutPrefix(value, GRPCPrefix); isGRPC {
		s.grpc |= 1 << slices.Index(grpcNames[:], word)
		return
	}
	code, _ := strconv.Atoi(value)
	s.http = append(s.http, code)
}

// NewStatuses returns a set of those statuses. See [Statuses.Add].
func NewStatuses[S ~string](all []S) (set Statuses) {
	for _, value := range all {
		set.Add(string(value))
	}
	return set
}

// Empty reports whether the set is empty.
func (s *Statuses) Empty() bool { return len(s.http) == 0 && s.grpc == 0 }

// SomeGRPC reports whether the set has gRPC statuses.
func (s *Statuses) SomeGRPC() bool { return s.grpc != 0 }

// Has reports whether the HTTP status of an answer, or the status of its gRPC call, is in the set.
func (s *Statuses) Has(status int, call GRPC) bool { return s.HasHTTP(status) || s.HasGRPC(call) }

// HasHTTP reports whether an HTTP status is in the set.
func (s *Statuses) HasHTTP(status int) bool { return slices.Contains(s.http, status) }

// HasGRPC reports whether the status of a gRPC call is in the set.
func (s *Statuses) HasGRPC(call GRPC) bool { return call != NoGRPC && s.grpc&(1<<call.code()) != 0 }
