package exchange

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

var (
	errRefused     = errors.New("connection refused")
	errReset       = errors.New("connection reset")
	errDescriptors = errors.New("too many open files")
	errBroken      = errors.New("unexpected end")
)

// script is what a backend does with an attempt.
type script func(*http.Request) (*http.Response, error)

// pause waits, unless the attempt is ended before.
func pause(r *http.Request, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// says answers with that status in a while, when it has read the body.
func says(d time.Duration, status int) script { return saysBody(d, status, "hello", nil) }

// saysBody is says with a body that is ended by err; nil is its end.
func saysBody(d time.Duration, status int, text string, err error) script {
	return func(r *http.Request) (*http.Response, error) {
		if err := upload(r); err != nil {
			return nil, err
		}
		if err := pause(r, d); err != nil {
			return nil, err
		}
		return newAnswer(status, text, err), nil
	}
}

func newAnswer(status int, text string, err error) *http.Response {
	body := &answerText{parts: []string{text}, err: err}
	return &http.Response{StatusCode: status, Header: make(http.Header), Body: body}
}

// upload reads the body of an attempt.
func upload(r *http.Request) error {
	if r.Body == nil {
		return nil
	}
	defer r.Body.Close()
	_, err := io.Copy(io.Discard, r.Body)
	return err
}

// echoes answers with the body of the request.
func echoes(d time.Duration, status int) script {
	return func(r *http.Request) (*http.Response, error) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if err := pause(r, d); err != nil {
			return nil, err
		}
		return newAnswer(status, string(text), nil), nil
	}
}

// with changes the answer of a script.
func with(s script, change func(*http.Response)) script {
	return func(r *http.Request) (*http.Response, error) {
		res, err := s(r)
		if err == nil {
			change(res)
		}
		return res, err
	}
}

// header is with a field in the answer's header.
func header(s script, name, value string) script {
	return with(s, func(res *http.Response) { res.Header.Set(name, value) })
}

// fails fails in a while, when it has read so much of the body.
func fails(d time.Duration, upTo int, err error) script {
	return func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			defer r.Body.Close()
			if _, err := io.CopyN(io.Discard, r.Body, int64(upTo)); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			}
		}
		if err := pause(r, d); err != nil {
			return nil, err
		}
		return nil, err
	}
}

func refuses(d time.Duration) script { return fails(d, 0, errRefused) }
func resets(d time.Duration) script  { return fails(d, 1<<20, errReset) }

// hangs answers never.
func hangs() script { return says(time.Hour, http.StatusOK) }

// crashes panics in a while.
func crashes(d time.Duration) script {
	return func(r *http.Request) (*http.Response, error) {
		_ = pause(r, d)
		panic("crash")
	}
}

// crashesAfter panics when it has read so much of the body.
func crashesAfter(n int64) script {
	return func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			_, _ = io.CopyN(io.Discard, r.Body, n)
		}
		panic("crash")
	}
}

// readsLate fails at once, and reads the body only then.
func readsLate(d time.Duration) script {
	return func(r *http.Request) (*http.Response, error) {
		time.AfterFunc(d, func() { _ = upload(r) })
		return nil, errReset
	}
}

// informs gives an informational answer before it goes on.
func informs(d time.Duration, status int, then script) script {
	return func(r *http.Request) (*http.Response, error) {
		if err := pause(r, d); err != nil {
			return nil, err
		}
		r.Context().Value(informKey{}).(func(int))(status)
		return then(r)
	}
}

// contextFor is a client that leaves after that time.
func contextFor(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(d, cancel)
	return ctx, cancel
}

// answerText is the body of an answer, which comes in parts.
type answerText struct {
	parts []string
	pause time.Duration // before each part
	err   error         // after the last; nil is its end
	ctx   context.Context

	mu     sync.Mutex
	closed bool
}

func (a *answerText) Read(p []byte) (int, error) {
	if a.pause > 0 {
		select {
		case <-time.After(a.pause):
		case <-a.ctx.Done():
			return 0, a.ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return 0, http.ErrBodyReadAfterClose
	case len(a.parts) > 0:
		n := copy(p, a.parts[0])
		if a.parts[0] = a.parts[0][n:]; a.parts[0] == "" {
			a.parts = a.parts[1:]
		}
		return n, nil
	case a.err != nil:
		return 0, a.err
	default:
		return 0, io.EOF
	}
}

func (a *answerText) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	return nil
}

// streams answers at once, and sends so many parts of a body, each after a while.
func streams(pause time.Duration, parts int, err error) script {
	return func(r *http.Request) (*http.Response, error) {
		if err := upload(r); err != nil {
			return nil, err
		}
		body := &answerText{parts: strings.SplitAfter(strings.Repeat("part.", parts), "."), pause: pause, err: err, ctx: r.Context()}
		body.parts = body.parts[:parts]
		return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body}, nil
	}
}

// clientBody is the body of a request as its client sends it, in parts.
type clientBody struct {
	parts  []string
	pause  time.Duration // before each part
	length int64         // as announced; -1 if it is not
	err    error         // after the last part; nil is its end

	mu     sync.Mutex // guards what follows; it is not held while the client is waited for
	next   int
	broken error
	waited time.Duration
	since  time.Time
	closed int
	unread string // what was put back at last
	lost   bool
}

func newBody(pause time.Duration, err error, parts ...string) *clientBody {
	return &clientBody{parts: parts, pause: pause, err: err, length: int64(len(strings.Join(parts, "")))}
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.since = time.Now()
	b.mu.Unlock()
	if b.pause > 0 {
		time.Sleep(b.pause)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waited += time.Since(b.since)
	b.since = time.Time{}
	if b.next < len(b.parts) {
		n := copy(p, b.parts[b.next])
		if b.parts[b.next] = b.parts[b.next][n:]; b.parts[b.next] == "" {
			b.next++
		}
		return n, nil
	}
	if b.err != nil {
		b.broken = b.err
		return 0, b.err
	}
	return 0, io.EOF
}

func (b *clientBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed++
	return nil
}

func (b *clientBody) Failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

func (b *clientBody) Wait(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		return b.waited
	}
	return b.waited + now.Sub(b.since)
}

func (b *clientBody) Unread(p []byte) { b.unread = string(p) }

func (b *clientBody) Lose() { b.lost = true }

func (b *clientBody) Stalled(began time.Time, waited time.Duration, now time.Time) bool {
	b.mu.Lock()
	unfinished := b.next < len(b.parts) || b.err != nil
	b.mu.Unlock()
	return unfinished && b.Wait(now)-waited >= max(200*ms, now.Sub(began)/2)
}
