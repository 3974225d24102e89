package lane

import (
	"io"
	"time"
)

// lingerFor is how long a client has to read an answer before its connection is closed with unread bytes, which resets it. The value is
// net/http's.
const lingerFor = 500 * time.Millisecond

// linger closes the connection for writing, and waits for the client to close it.
func (c *conn) linger() {
	half, ok := c.net.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.net.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.net)
}

// dropGrown releases a buffer that a large head has enlarged, if it has no unread bytes.
func (c *conn) dropGrown() {
	if c.start == c.end && len(c.buf) > readSize {
		c.dropBuffer()
	}
}
