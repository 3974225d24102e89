package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The end of a body determines whether the client or the server ended it, and the answer to the client.
func TestClientBody(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		length int64
		body   io.Reader
		ctx    context.Context
		status int // 0 where the body is whole
	}{
		"whole":                      {5, strings.NewReader("12345"), t.Context(), 0},
		"whole, at once":             {5, iotest.DataErrReader(strings.NewReader("12345")), t.Context(), 0},
		"whole, by the byte":         {5, iotest.OneByteReader(strings.NewReader("12345")), t.Context(), 0},
		"of no known length":         {-1, strings.NewReader("12345"), t.Context(), 0},
		"too short":                  {6, strings.NewReader("12345"), t.Context(), 400},
		"too short, at once":         {6, iotest.DataErrReader(strings.NewReader("12345")), t.Context(), 400},
		"too long":                   {4, strings.NewReader("12345"), t.Context(), 400},
		"nothing of it":              {5, strings.NewReader(""), t.Context(), 400},
		"no chunk":                   {-1, iotest.ErrReader(errors.New("invalid byte in chunk length")), t.Context(), 400},
		"closed":                     {5, iotest.ErrReader(io.ErrUnexpectedEOF), gone, 400},
		"reset":                      {5, iotest.ErrReader(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), t.Context(), 499},
		"left":                       {5, iotest.ErrReader(errors.New("client disconnected")), t.Context(), 499},
		"canceled":                   {5, iotest.ErrReader(errors.New("of any kind")), gone, 499},
		"canceled over HTTP/3":       {5, iotest.ErrReader(&http3.Error{Remote: true, ErrorCode: http3.ErrCodeRequestCanceled}), t.Context(), 499},
		"malformed over HTTP/3":      {5, iotest.ErrReader(&http3.Error{ErrorCode: http3.ErrCodeMessageError}), t.Context(), 400},
		"too slow":                   {5, iotest.ErrReader(os.ErrDeadlineExceeded), t.Context(), 408},
		"too slow, over HTTP/1":      {5, iotest.ErrReader(os.ErrDeadlineExceeded), gone, 408},
		"too large":                  {-1, http.MaxBytesReader(nil, io.NopCloser(strings.NewReader("12345")), 3), t.Context(), 413},
		"refused by another handler": {-1, iotest.ErrReader(caddyhttp.Error(http.StatusTeapot, nil)), t.Context(), 418},
		"closed by the server":       {5, iotest.ErrReader(http.ErrBodyReadAfterClose), t.Context(), 502},
	} {
		r := &http.Request{Body: io.NopCloser(test.body), ContentLength: test.length}
		b := receive(r)
		_, err := io.ReadAll(r.Body)
		refusal := b.Refusal(test.ctx)
		_, unfinished := b.wait(time.Now())
		if test.status == 0 {
			if err != nil || refusal != nil || unfinished {
				t.Errorf("%s: read %v, refused %v, unfinished %v", name, err, refusal, unfinished)
			}
			continue
		}
		// What reverse_proxy makes of an error.
		status := caddyhttp.Error(http.StatusBadGateway, refusal).StatusCode
		if errors.Is(refusal, context.Canceled) {
			status = pool.StatusCanceled
		}
		if err == nil || refusal == nil || status != test.status {
			t.Errorf("%s: read %v, refused %v with %d; want %d", name, err, refusal, status, test.status)
		}
		if n, again := r.Body.Read(make([]byte, 1)); n != 0 || again == nil || again == io.EOF {
			t.Errorf("%s: read on: %d, %v", name, n, again)
		}
	}
}

// A request may be canceled before the read that found the cause has returned. A read that continues says nothing.
func TestRefusalWaitsForRead(t *testing.T) {
	for _, c := range []struct {
		ends   time.Duration // of the read, after the request was canceled
		status int
		took   time.Duration
	}{
		{0, 400, 0},
		{lastRead / 2, 400, lastRead / 2},
		{time.Hour, 0, lastRead},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			r := &http.Request{Body: io.NopCloser(readerFunc(func([]byte) (int, error) {
				cancel()
				time.Sleep(c.ends)
				return 0, io.ErrUnexpectedEOF
			})), ContentLength: 5}
			b := receive(r)
			var reading sync.WaitGroup
			defer reading.Wait()
			reading.Go(func() { _, _ = r.Body.Read(make([]byte, 5)) })
			<-ctx.Done()
			start, status := time.Now(), 0
			if refusal, is := errors.AsType[caddyhttp.HandlerError](b.Refusal(ctx)); is {
				status = refusal.StatusCode
			}
			if took := time.Since(start); status != c.status || took != c.took {
				t.Errorf("a read that ends %v later: status %d after %v, want %d after %v", c.ends, status, took, c.status, c.took)
			}
		})
	}
}

// readerFunc is a reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// If a reader has lost a part of a body, the next reader does not get the rest.
func TestLostBody(t *testing.T) {
	r := &http.Request{Body: io.NopCloser(strings.NewReader("12345")), ContentLength: -1}
	b := receive(r)
	_, err := io.ReadFull(r.Body, make([]byte, 2))
	b.Lose()
	if n, after := r.Body.Read(make([]byte, 3)); err != nil || n != 0 || !errors.Is(after, http.ErrBodyReadAfterClose) {
		t.Errorf("%v; after that %d bytes are read, %v", err, n, after)
	}
	if _, unfinished := b.wait(time.Now()); !unfinished || b.Failure() != nil {
		t.Errorf("unfinished %v, failure %v: the client's body is as it was", unfinished, b.Failure())
	}
}

// A request without a body, and the second load balancer that has one, get no other.
func TestReceive(t *testing.T) {
	for _, r := range []*http.Request{{}, {Body: http.NoBody}, {Body: http.NoBody, ContentLength: -1}} {
		if b := receive(r); b != nil || b.Failure() != nil || b.Refusal(t.Context()) != nil {
			t.Errorf("%v: %v", r.Body, b)
		}
	}
	r := &http.Request{Body: io.NopCloser(strings.NewReader("12345")), ContentLength: 5}
	if first := receive(r); receive(r) != first {
		t.Error("wrapped twice")
	}
}

// An attempt that has waited for its client for long and for most of its time says nothing about the backend.
func TestStalled(t *testing.T) {
	for name, test := range map[string]struct {
		before, pause, after time.Duration // the client is waited for during pause
		rest                 bool          // comes before the attempt fails
		want                 bool
	}{
		"at once":                 {0, 0, 0, false, false},
		"client is a little slow": {0, stallTime - 1, 0, false, false},
		"client is slow":          {0, stallTime, 0, false, true},
		"backend is slow, too":    {time.Second, time.Second, 0, false, true},
		"backend is slower":       {time.Second, time.Second, time.Millisecond, false, false},
		"the body has come":       {0, time.Minute, 0, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			pr, pw := io.Pipe()
			r := &http.Request{Body: pr, ContentLength: 5}
			b, began := receive(r), time.Now()
			time.Sleep(test.before)
			go func() { _, _ = io.ReadAll(r.Body) }()
			time.Sleep(test.pause)
			if test.rest {
				_, _ = pw.Write([]byte("12345"))
			} else {
				_, _ = pw.Write([]byte("1"))
			}
			synctest.Wait()
			if test.after > 0 {
				b.waited = test.pause // the rest is not waited for
				b.since = time.Time{}
				time.Sleep(test.after)
			}
			if got := b.Stalled(began, 0, time.Now()); got != test.want {
				t.Errorf("%s: %v, want %v", name, got, test.want)
			}
			if b.Stalled(began, test.pause, time.Now()) {
				t.Errorf("%s: of an attempt that began after it", name)
			}
			b.stream = true
			if b.Stalled(began, 0, time.Now()) {
				t.Errorf("%s: of a gRPC stream", name)
			}
			pw.Close()
		})
	}
}
