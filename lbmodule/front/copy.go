package front

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// errWriting marks errors of writing to the client.
var errWriting = errors.New("writing")

// The sizes of the buffers for copying answers. A large one takes a whole answer of moderate length at once, which saves system calls. For
// a longer answer a small one is cheaper, because its content stays in the processor's cache.
const (
	bufferSize = 32 << 10
	largeSize  = 128 << 10
)

var (
	buffers      = sync.Pool{New: func() any { return new(make([]byte, bufferSize)) }}
	largeBuffers = sync.Pool{New: func() any { return new(make([]byte, largeSize)) }}
)

// largeOnes bounds the number of large buffers in use, and so their memory while clients are slow.
var largeOnes = places{most: 64}

// places bounds the number of concurrent users of something.
type places struct {
	most  int32
	taken atomic.Int32
}

// take takes a place and reports whether one was free. If so, leave must be called once.
func (p *places) take() bool {
	if p.taken.Add(1) <= p.most {
		return true
	}
	p.taken.Add(-1)
	return false
}

func (p *places) leave() { p.taken.Add(-1) }

// copyBody writes a body of that length, negative if unknown, to the client. If flushAfter is positive, it flushes each part after that
// time at the latest; if it is negative, at once.
func (q *Request) copyBody(body io.Reader, length int64, flushAfter time.Duration) error {
	if body == http.NoBody && flushAfter == 0 {
		return nil
	}
	if length >= moveFrom && flushAfter == 0 {
		if m := q.mover(body, length); m != nil {
			if err := m.move(); !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
		}
	}
	to := io.Writer(q.w)
	if flushAfter != 0 {
		flusher := &flushWriter{to: q.w, flush: http.NewResponseController(q.w).Flush, after: flushAfter}
		defer flusher.stop()
		flusher.start()
		to = flusher
	}
	pool := &buffers
	if length > bufferSize && length <= largeSize && largeOnes.take() {
		defer largeOnes.leave()
		pool = &largeBuffers
	}
	buffer := pool.Get().(*[]byte)
	defer pool.Put(buffer)
	for {
		n, err := body.Read(*buffer)
		if q.front.stock.VerboseLogs {
			q.logRead(n, err)
		}
		if n > 0 {
			written, failed := to.Write((*buffer)[:n])
			if q.front.stock.VerboseLogs {
				q.verbose("wrote to downstream", zap.Int("read", n), zap.Int("written", written), zap.Error(failed))
			}
			switch {
			case failed != nil:
				return writing(failed)
			case written != n:
				return io.ErrShortWrite
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return reading(err)
		}
	}
}

func reading(err error) error { return fmt.Errorf("reading: %w", err) }
func writing(err error) error { return fmt.Errorf("%w: %w", errWriting, err) }

// flushWriter flushes each write to the client after a bounded time.
type flushWriter struct {
	to    io.Writer
	flush func() error
	after time.Duration // negative for at once

	mu      sync.Mutex // guards the fields below, and calls of flush
	timer   *time.Timer
	pending bool
}

// start bounds the time for the header as well, because the body may take longer.
func (f *flushWriter) start() {
	f.pending = true
	f.timer = time.AfterFunc(f.after, f.late)
}

// Write implements [io.Writer].
func (f *flushWriter) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.to.Write(p)
	switch {
	case f.after < 0:
		_ = f.flush()
	case !f.pending:
		f.pending = true
		f.timer.Reset(f.after)
	}
	return n, err
}

// late flushes when the time is up.
func (f *flushWriter) late() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending { // false if stop was called in the meantime
		_ = f.flush()
		f.pending = false
	}
}

func (f *flushWriter) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pending = false
	f.timer.Stop()
}
