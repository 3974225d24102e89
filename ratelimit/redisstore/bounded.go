package redisstore

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Bounds of an answer. The client allocates as much as the header of an answer announces before it reads the answer: without bounds a
// server could exhaust the process's memory with a few bytes. The answers to the commands sent here are far smaller.
const (
	maxText     = 1 << 20 // bytes of a text or a line
	maxElements = 1 << 14 // of a list; a SCAN step returns a thousand keys or a few more
	maxDepth    = 8       // lists in lists
)

var errAnswerTooLarge = errors.New("answer of the store is too large")

// bounded wraps dial so that its connections refuse answers that are too large.
func bounded(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &boundedConn{Conn: c}, nil
	}
}

// dialer returns the dialer that the client would use by default.
func dialer(o *redis.UniversalOptions) func(ctx context.Context, network, address string) (net.Conn, error) {
	return bounded(redis.NewDialer(&redis.Options{DialTimeout: o.DialTimeout, TLSConfig: o.TLSConfig}))
}

// boundedConn checks the answers that are read against the bounds, in RESP2 or RESP3.
type boundedConn struct {
	net.Conn
	answers answers
}

// Read implements [net.Conn].
func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.answers.follow(p[:n]) {
		return 0, errAnswerTooLarge // also returned by later reads: the connection cannot be used any more
	}
	return n, err
}

// answers is the state of the parser of one connection's answers.
type answers struct {
	line     []byte // the beginning of the current line, as far as it can contain a length
	size     int    // of the current line
	text     int    // bytes left of the current text
	lists    []int  // elements left of each open list, the outermost first
	tooLarge bool
}

// longestHead is the longest line that can contain a length.
const longestHead = 24

// follow reads p, the next bytes of the answers, and reports whether they are within bounds.
func (a *answers) follow(p []byte) bool {
	for len(p) > 0 && !a.tooLarge {
		if a.text > 0 {
			n := min(a.text, len(p))
			a.text, p = a.text-n, p[n:]
			if a.text == 0 {
				a.ended()
			}
			continue
		}
		n := bytes.IndexByte(p, '\n') + 1
		part := p
		if n > 0 {
			part = p[:n]
		}
		a.line = append(a.line, part[:min(len(part), longestHead-len(a.line))]...)
		a.size += len(part)
		p = p[len(part):]
		a.tooLarge = a.size > maxText
		if n > 0 {
			a.head(bytes.TrimRight(a.line, "\r\n"), a.size <= longestHead)
			a.line, a.size = a.line[:0], 0
		}
	}
	return !a.tooLarge
}

// head parses a line that begins an element. whole says that line is complete.
func (a *answers) head(line []byte, whole bool) {
	if len(line) == 0 {
		a.ended()
		return
	}
	n, err := strconv.Atoi(string(line[1:]))
	whole = whole && err == nil
	switch kind := line[0]; kind {
	case '$', '=', '!': // texts, and the line end behind them
		if a.tooLarge = !whole || n > maxText; a.tooLarge || n < 0 {
			a.ended()
			return
		}
		a.text = n + len("\r\n")
	case '*', '~', '>', '%', '|': // lists; the last two have pairs
		if a.tooLarge = !whole || n > maxElements || len(a.lists) == maxDepth; a.tooLarge {
			return
		}
		if kind == '%' || kind == '|' {
			n *= 2
		}
		if kind == '|' {
			n++ // attributes come before the element that they belong to
		}
		if n <= 0 {
			a.ended()
			return
		}
		a.lists = append(a.lists, n)
	default:
		a.ended()
	}
}

// ended counts an element that is complete, and the lists that it completes.
func (a *answers) ended() {
	for n := len(a.lists); n > 0; n-- {
		if a.lists[n-1]--; a.lists[n-1] > 0 {
			return
		}
		a.lists = a.lists[:n-1]
	}
}
