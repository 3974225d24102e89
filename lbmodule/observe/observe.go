// Package observe tells of one request what a load balancer did with it: in the access log, by placeholders, in spans, and in a header of
// the answer. It asks when somebody wants to know, so that a request nobody looks at costs next to nothing.
package observe

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

const (
	// logField is the field of the access log that tells what became of a request here.
	logField = "load_balancer"

	// placeholderPrefix is what the placeholders begin with that tell the same.
	placeholderPrefix = "http.load_balancer."

	// requestVar is the request variable that holds the *Request. A load balancer in handle_response routes of another overwrites it,
	// after the other's last attempt.
	requestVar = "load_balancer.request"

	// statusCanceled is the status of a request whose client did not wait for the answer.
	statusCanceled = 499
)

// Observer tells of the requests of one load balancer. Its fields do not change.
type Observer struct {
	Pool   string // its name
	Policy string // the name of the selection policy
	Secure bool   // backends are spoken to by TLS

	// Name is the name of the backend of that address.
	Name func(address string) string
	// Dialed is the address that a request of an attempt is sent to, "" if that is not known.
	Dialed func(ctx context.Context) string
	// Kind tells what an error of an attempt means.
	Kind func(err error) course.Kind

	// DebugHeader is the field of answers that tells clients at DebugRanges how their backend was chosen.
	DebugHeader string
	DebugRanges []netip.Prefix
	// Explain says of each of these members why a request that has been at those addresses may go there or not. chosen is where it
	// goes. It is written as JSON, whose texts are ASCII without control characters.
	Explain func(m course.Members, tried []string, chosen string) any
}

// maxExplained is how many candidates the debug header holds.
const maxExplained = 16

// New returns an observer that tells of the requests of that load balancer, and in that header, if there is one. How requests are sent to
// backends is left to be filled in.
func New(s *service.Service, header *config.DebugHeader) Observer {
	name := s.Manager().Name
	o := Observer{
		Pool: s.Pool().Name(), Policy: s.PolicyName(), Name: name,
		Explain: func(m course.Members, tried []string, chosen string) any {
			x := status.Explain(s, m.(*service.Set), tried)
			x.Chosen = name(chosen)
			if n := len(x.Candidates); n > maxExplained {
				x.Candidates, x.More = x.Candidates[:maxExplained], n-maxExplained
			}
			return x // whose names are ASCII without control characters, as the rest is
		},
	}
	if o.DebugRanges = header.Prefixes(); len(o.DebugRanges) > 0 {
		o.DebugHeader = header.Name
	}
	return o
}

// Placeholders are others that are told of a request.
type Placeholders interface {
	// Placeholder returns what the placeholder of that name stands for; ok is false where it is none of these.
	Placeholder(name string) (value any, ok bool)
}

// Request is a request as it is told of. The zero Request is of none.
type Request struct {
	observer *Observer
	exchange *exchange.Exchange
	others   Placeholders
	w        http.ResponseWriter // whose client is told how backends are chosen; nil if it is not
}

// Show has the access log and the placeholders tell of q, which is the request r on its way through x. Placeholders of reverse_proxy are
// others.
func (q *Request) Show(o *Observer, x *exchange.Exchange, others Placeholders, w http.ResponseWriter, r *http.Request) {
	q.observer, q.exchange, q.others = o, x, others
	ctx := r.Context()
	if o.debugs(ctx) {
		q.w = w
	}
	_, before := caddyhttp.GetVar(ctx, requestVar).(*Request)
	caddyhttp.SetVar(ctx, requestVar, q)
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok && !before {
		// The latest load balancer on a request's way is the one that is told of, here as in the log.
		repl.Map(func(key string) (any, bool) {
			if !strings.HasPrefix(key, "http.") {
				return nil, false
			}
			latest := caddyhttp.GetVar(ctx, requestVar).(*Request)
			if name, ours := strings.CutPrefix(key, placeholderPrefix); ours {
				return latest.placeholder(name)
			}
			return latest.others.Placeholder(key)
		})
	}
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Object(logField, q))
	}
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (q *Request) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("pool", q.observer.Pool)
	e.AddString("backend", q.backend())
	e.AddString("policy", q.observer.Policy)
	e.AddFloat64("queue_ms", milliseconds(q.exchange.Course().Waited()))
	if err := q.exchange.Course().Refused(); err != nil {
		e.AddString("error", err.Error())
	}
	return e.AddArray("attempts", q.attempts())
}

// placeholder returns what the placeholder of that name stands for.
func (q *Request) placeholder(name string) (any, bool) {
	switch name {
	case "pool":
		return q.observer.Pool, true
	case "backend":
		return q.backend(), true
	case "policy":
		return q.observer.Policy, true
	case "queue_ms":
		return milliseconds(q.exchange.Course().Waited()), true
	case "attempts":
		return q.attempts(), true
	case "retries":
		return max(len(q.exchange.Trail())-1, 0), true
	case "error":
		return q.lastError(), true
	default:
		return nil, false
	}
}

// backend is the name of the backend that the request is at, or was at last; "" if it got to none.
func (q *Request) backend() string {
	a := q.exchange.Current()
	if a == nil {
		return ""
	}
	return q.observer.Name(a.Address)
}

// lastError tells why there is no answer, or what went wrong before there was one; "" if nothing did.
func (q *Request) lastError() string {
	if err := q.exchange.Course().Refused(); err != nil {
		return err.Error()
	}
	for _, a := range slices.Backward(q.exchange.Trail()) {
		if a.Err != nil {
			return a.Err.Error()
		}
	}
	return ""
}

// Status is the status with which the request is answered; err is what the handler returns.
func (q *Request) Status(err error) int {
	if err != nil {
		if answer, ok := errors.AsType[caddyhttp.HandlerError](err); ok && answer.StatusCode != 0 {
			return answer.StatusCode
		}
		return http.StatusInternalServerError
	}
	if passed := q.exchange.Passed(); passed != nil { //nolint:bodyclose // the front closes it
		return passed.StatusCode
	}
	return statusCanceled
}

// attemptList are attempts as logs and placeholders show them.
type attemptList []attempt

type attempt struct {
	Backend string  `json:"backend"`
	Status  int     `json:"status"` // 0 without an answer
	GRPC    string  `json:"grpc_status,omitempty"`
	Ms      float64 `json:"ms"` // until the answer's header, or until it failed
	Error   string  `json:"error,omitempty"`
}

// attempts are those that the request has had so far.
func (q *Request) attempts() attemptList {
	trail := q.exchange.Trail()
	list := make(attemptList, len(trail))
	for i := range trail {
		a := &trail[i]
		list[i] = attempt{Backend: q.observer.Name(a.Address), Status: a.Status, GRPC: a.Call.String(), Ms: milliseconds(a.Took)}
		if a.Err != nil {
			list[i].Error = a.Err.Error()
		}
	}
	return list
}

// String is the list as JSON, which is what a placeholder stands for.
func (l attemptList) String() string {
	text, err := json.Marshal(l)
	if err != nil {
		return ""
	}
	return string(text)
}

// MarshalLogArray implements [zapcore.ArrayMarshaler].
func (l attemptList) MarshalLogArray(e zapcore.ArrayEncoder) error {
	for _, a := range l {
		if err := e.AppendObject(a); err != nil {
			return err
		}
	}
	return nil
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (a attempt) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("backend", a.Backend)
	e.AddInt("status", a.Status)
	if a.GRPC != "" {
		e.AddString("grpc_status", a.GRPC)
	}
	e.AddFloat64("ms", a.Ms)
	if a.Error != "" {
		e.AddString("error", a.Error)
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// debugs reports whether the client of a request is told how backends are chosen.
func (o *Observer) debugs(ctx context.Context) bool {
	if len(o.DebugRanges) == 0 {
		return false
	}
	text, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	address = address.Unmap().WithZone("")
	return slices.ContainsFunc(o.DebugRanges, func(p netip.Prefix) bool { return p.Contains(address) })
}

// Chosen implements [exchange.Observer]: it tells the client how the backend of the attempt was chosen.
func (o *Observer) Chosen(x *exchange.Exchange) {
	if len(o.DebugRanges) == 0 {
		return
	}
	q, ok := caddyhttp.GetVar(x.Context(), requestVar).(*Request)
	if !ok || q.exchange != x || q.w == nil {
		return
	}
	c := x.Course()
	tried := make([]string, 0, len(c.Tried()))
	for _, i := range c.Tried() {
		tried = append(tried, c.Members().Target(i).Address())
	}
	if text, err := json.Marshal(o.Explain(c.Members(), tried, c.Choice().Target.Address())); err == nil {
		q.w.Header().Set(o.DebugHeader, string(text))
	}
}
