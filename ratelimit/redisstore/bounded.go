package redisstore

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Bounds of an answer. The client makes room for what an answer says it has before it reads it: without bounds a few bytes of a server end
// the process. The answers to what is asked here are far smaller.
const (
	maxText     = 1 << 20 // bytes of a text or a line
	maxElements = 1 << 14 // of a list; a SCAN step returns a thousand keys or a few more
	maxDepth    = 8       // lists in lists
)

var errAnswerTooLarge = errors.New("answer of the store is too large")

// bounded has the connections that dial makes refuse answers that are too large.
func bounded(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &boundedConn{Conn: c}, nil
	}
}

// dialer is the dialer that the client would have.
func dialer(o *redis.UniversalOptions) func(ctx context.Context, network, address string) (net.Conn, error) {
	return bounded(redis.NewDialer(&redis.Options{DialTimeout: o.DialTimeout, TLSConfig: o.TLSConfig}))
}

// boundedConn follows the answers that are read, in RESP2 or RESP3.
type boundedConn struct {
	net.Conn
	answers answers
}

// Read implements [net.Conn].
func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !c.answers.follow(p[:n]) {
		return 0, errAnswerTooLarge // and again: the connection is of no use any more
	}
	return n, err
}

// answers is how far a connection's answers have been read.
type answers struct {
	line     []byte // the beginning of the current line, as far as it can have a length in it
	size     int    // of the current line
	text     int    // bytes that are left of the current text
	lists    []int  // elements that are left of the lists that the next element is in, the outermost first
	tooLarge bool
}

// longestHead is how long a line can be that has a length in it.
const longestHead = 24

// follow reports whether p, which comes next, is within bounds.
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

// head follows a line that begins an element. whole says that there is no more of the line.
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
	case '*', '~', '>', '%', '|': // lists; of pairs the last two
		if a.tooLarge = !whole || n > maxElements || len(a.lists) == maxDepth; a.tooLarge {
			return
		}
		if kind == '%' || kind == '|' {
			n *= 2
		}
		if kind == '|' {
			n++ // attributes come before what they are of
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

// ended follows the end of an element, and of the lists that it is the last of.
func (a *answers) ended() {
	for n := len(a.lists); n > 0; n-- {
		if a.lists[n-1]--; a.lists[n-1] > 0 {
			return
		}
		a.lists = a.lists[:n-1]
	}
}
