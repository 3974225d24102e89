package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

const (
	// maxHeader bounds the header of an answer. It is the default of http.Server for requests.
	maxHeader = 1 << 20
	// maxInformational bounds the number of 1xx answers before the final one.
	maxInformational = 5
	// maxReuse is the number of probes on one connection. A new connection from time to time detects a backend that no longer accepts
	// any.
	maxReuse = 30
)

// keptConn is a connection that is kept from one probe to the next. It is used by one goroutine.
type keptConn struct {
	net.Conn // nil if there is none
	limit    io.LimitedReader
	answers  *bufio.Reader // of limit, which reads from Conn
	used     int           // probes made on it
}

// Close closes the kept connection, if there is one.
func (p *HTTP) Close() error {
	if p.conn.Conn == nil {
		return nil
	}
	conn := p.conn.Conn
	p.conn.Conn = nil
	return conn.Close()
}

// probeDirectly makes the probe over p's own connection.
func (p *HTTP) probeDirectly(ctx context.Context, r *http.Request) (int, error) {
	reused := p.conn.Conn != nil
	if !reused {
		if err := p.connect(ctx); err != nil {
			return 0, err
		}
	}
	code, answered, err := p.exchange(ctx, r)
	if reused && !answered && err != nil && ctx.Err() == nil {
		// The backend has closed the idle connection, which says nothing about its health.
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return 0, err
			}
		}
		if err := p.connect(ctx); err != nil {
			return 0, err
		}
		code, _, err = p.exchange(ctx, r)
	}
	return code, err
}

func (p *HTTP) connect(ctx context.Context) error {
	conn, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	p.conn.Conn, p.conn.used = conn, 0
	p.conn.limit.R = conn
	if p.conn.answers == nil {
		p.conn.answers = bufio.NewReaderSize(&p.conn.limit, 1<<10)
	} else {
		p.conn.answers.Reset(&p.conn.limit)
	}
	return nil
}

// exchange sends the request and reads the answer. It closes the connection unless both were complete and the connection may be used
// again. answered reports whether the backend has sent anything at all.
func (p *HTTP) exchange(ctx context.Context, r *http.Request) (code int, answered bool, err error) {
	c := &p.conn
	keep := false
	defer func() {
		if !keep {
			_ = p.Close() // it cannot be used again
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return 0, false, err
	}
	// When the check ends, the probe ends at once, without waiting for the timeout.
	conn := c.Conn
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	limit := p.MaxBody
	if limit <= 0 {
		limit = maxBody
	}
	c.limit.N = maxHeader + limit
	if c.used++; c.used >= maxReuse {
		r.Close = true
	}
	if err := r.Write(c); err != nil {
		return 0, false, timedOut(ctx, err)
	}
	if _, err := c.answers.Peek(1); err != nil {
		return 0, false, timedOut(ctx, fmt.Errorf("reading answer: %w", err))
	}
	for range maxInformational + 1 {
		res, err := http.ReadResponse(c.answers, r) //nolint:bodyclose // it is read to its end, or else the connection is closed
		if err != nil {
			return 0, true, timedOut(ctx, fmt.Errorf("reading answer: %w", err))
		}
		if res.StatusCode < 200 {
			continue
		}
		err = timedOut(ctx, p.judge(res))
		if _, drained := io.CopyN(io.Discard, res.Body, maxDrain); errors.Is(drained, io.EOF) {
			keep = !res.Close && !r.Close && c.answers.Buffered() == 0
		}
		return res.StatusCode, true, err
	}
	return 0, true, errors.New("too many informational answers")
}

// timedOut returns the error to report for an error that the end of ctx has caused.
func timedOut(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	default:
		return err
	}
}
