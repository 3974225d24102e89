//go:build trust

package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	grpccodes "google.golang.org/grpc/codes"
)

// soakBackend is a backend of a soak: a process, or a gRPC server.
type soakBackend struct {
	t       *testing.T
	n       int // its place among the backends of the soak
	address string
	cmd     *exec.Cmd
	call    *grpcBackend // nil if it is a process
	faults  *faultLog
	busy    bool // something is wrong with it; the timeline's
}

// kill ends the process with a signal and waits for its end.
func (b *soakBackend) kill(signal syscall.Signal) {
	_ = b.cmd.Process.Signal(signal)
	_ = b.cmd.Wait()
}

// restart starts another process at the same address and waits until it listens. Meanwhile some connection may have the port as its own.
func (b *soakBackend) restart() {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		cmd := exec.Command(b.cmd.Path, "-listen", b.address)
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.t.Error(err)
			return
		}
		if err := cmd.Start(); err != nil {
			b.t.Error(err)
			return
		}
		if line, _ := bufio.NewReader(out).ReadString('\n'); strings.HasPrefix(line, "listening ") {
			b.cmd = cmd
			b.t.Cleanup(func() {
				_ = cmd.Process.Signal(syscall.SIGCONT)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			return
		}
		_ = cmd.Wait()
	}
	b.t.Errorf("backend %d does not start again", b.n)
}

// tell changes the settings of the backend.
func (b *soakBackend) tell(settings string) {
	r, err := http.NewRequest(http.MethodPatch, "http://"+b.address+"/_settings", strings.NewReader(settings))
	if err != nil {
		b.t.Error(err)
		return
	}
	r.Close = true
	res, err := client.Do(r)
	if err != nil {
		b.t.Error(err)
		return
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b.t.Errorf("status %d for the settings %s", res.StatusCode, settings)
	}
}

// harm is what a fault does to requests at its backend.
type harm uint8

const (
	delays  harm = iota // they take longer
	away                // no new ones come
	refuses             // they are answered 503, or with UNAVAILABLE
	breaks              // their connections, or answers, break off
	cuts                // the same, and there is nobody for a while
)

// trouble is something that was wrong with a backend.
type trouble struct {
	backend  int
	pool     string // "" for all pools of the backend
	harm     harm
	from, to time.Time // to is zero as long as it lasts
}

// faultLog is what was wrong when.
type faultLog struct {
	mu  sync.Mutex
	all []*trouble
}

// begin notes a fault, until the returned function is called.
func (l *faultLog) begin(f trouble) (end func()) {
	f.from = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, &f)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		f.to = time.Now()
	}
}

// forget drops faults that were over before that time: no request is older.
func (l *faultLog) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = slices.DeleteFunc(l.all, func(f *trouble) bool { return !f.to.IsZero() && f.to.Before(before) })
}

// faultMargin is how long after its end a fault may show, and before its beginning: processes are stopped and started by the side.
const faultMargin = time.Second

// during returns the worst that was wrong with each backend of the pool at any time between from and to.
func (l *faultLog) during(pool string, from, to time.Time) map[int]*trouble {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make(map[int]*trouble)
	for _, f := range l.all {
		if !slices.Contains(soakPools[pool], f.backend) || f.pool != "" && f.pool != pool {
			continue
		}
		if f.from.Add(-faultMargin).After(to) || !f.to.IsZero() && f.to.Add(faultMargin).Before(from) {
			continue
		}
		if worst := found[f.backend]; worst == nil || worst.harm < f.harm {
			found[f.backend] = f
		}
	}
	return found
}

var (
	// errWrongAnswer is the error of an answer that is not the right one. Nothing explains it.
	errWrongAnswer = errors.New("wrong answer")
	// errUnanswered is the error of a request without an answer.
	errUnanswered = errors.New("no answer")
	// errBroken is the error of an answer, or stream, that broke off.
	errBroken = errors.New("answer broke off")
)

// briefly is how long a backend may be away without anybody noticing, with some time of the two seconds of `hold` left for a busy machine.
const briefly = 1500 * time.Millisecond

// lingers is for how long a backend may be out after a fault: its breaker stays open for two seconds at most, and its probes take a while.
const lingers = 5 * time.Second

// explain returns why a request may have failed, by what was wrong with the backends of its pool; "" if it must not have failed.
// repeatable says that it may be sent again once a backend has got it.
func (l *faultLog) explain(a *soakAsked) string {
	all := l.during(a.pool, a.from, a.to)
	hurt, gone := 0, 0 // backends that fail requests, and those that have no more of them
	for _, f := range all {
		brief := f.harm == cuts && !f.to.IsZero() && f.to.Sub(f.from) < briefly
		if f.harm >= refuses {
			hurt++
		}
		if f.harm >= away && !brief {
			gone++
		}
	}
	out := 0 // backends that are, or may be because of an open breaker
	for _, f := range l.during(a.pool, a.from.Add(-lingers), a.to) {
		if f.harm >= away {
			out++
		}
	}
	broken := slices.ContainsFunc(slices.Collect(maps.Values(all)), func(f *trouble) bool { return f.harm >= breaks })
	switch {
	case a.err != nil && errors.Is(a.err, errBroken) && broken:
		return "the backend broke off while it answered"
	case a.err != nil:
		return ""
	case a.status != http.StatusBadGateway && a.status != http.StatusServiceUnavailable && a.status != http.StatusGatewayTimeout:
		return ""
	case !a.repeatable && hurt > 0:
		return "not to be repeated, and sent to a backend that failed it"
	case hurt >= 2:
		return "both attempts met a backend that failed"
	case gone >= len(soakPools[a.pool]):
		return "no backend was left"
	case hurt >= 1 && out >= len(soakPools[a.pool]):
		return "its backend failed, and the breakers of the others may have been open"
	default:
		return ""
	}
}

// soakAsked is a request of the soak and what came of it.
type soakAsked struct {
	kind, pool string
	repeatable bool
	path       string // with its number, by which the log tells it
	from, to   time.Time
	status     int
	err        error
}

// soakMystery is a failure without an explanation.
type soakMystery struct{ path, text string }

// logged is what the access log tells of the request.
func (m *soakMystery) logged(log []byte) string {
	for line := range bytes.Lines(log) {
		if bytes.Contains(line, []byte(`"uri":"`+strings.ReplaceAll(m.path, "&", `\u0026`)+`"`)) || bytes.Contains(line, []byte(`"uri":"`+m.path+`"`)) {
			_, told, _ := bytes.Cut(line, []byte(`"load_balancer":`))
			return string(told)
		}
	}
	return "not in the log"
}

// judge counts a request that has ended.
func (s *soaking) judge(a *soakAsked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[a.kind]
	if k == nil {
		k = new(soakCount)
		s.kinds[a.kind] = k
	}
	k.sent++
	k.longest = max(k.longest, a.to.Sub(a.from))
	switch {
	case errors.Is(a.err, errLeft):
		k.left++
		return
	case a.err == nil && a.status == http.StatusOK:
		k.good++
		return
	case a.err == nil && a.status == http.StatusTooManyRequests && a.kind == limitedKind:
		k.limited++
		return
	}
	k.failed++
	if reason := s.faults.explain(a); reason != "" {
		s.reasons[reason]++
		return
	}
	text := fmt.Sprintf("%v: %s %s: status %d, %v, after %v; wrong with its pool:", a.from.Sub(s.start).Round(time.Millisecond), a.kind, a.path, a.status, a.err, a.to.Sub(a.from).Round(time.Millisecond))
	for n, f := range s.faults.during(a.pool, a.from.Add(-lingers), a.to) {
		text += fmt.Sprintf(" %d:%d from %v to %v", n, f.harm, f.from.Sub(s.start).Round(time.Millisecond), cmp.Or(f.to, time.Now()).Sub(s.start).Round(time.Millisecond))
	}
	s.mystery = append(s.mystery, soakMystery{a.path, text})
}

// unavailable has the gRPC server answer so, or well again.
func (b *soakBackend) unavailable(is bool) {
	code := grpccodes.OK
	if is {
		code = grpccodes.Unavailable
	}
	b.call.handle(answersWith(code, false))
}
