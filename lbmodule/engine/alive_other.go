//go:build !unix

package engine

// canTell tells whether this platform can tell whether an idle connection is alive. Where it cannot, the client takes no requests.
const canTell = false

func (c *conn) peek(uintptr) bool { return true }
