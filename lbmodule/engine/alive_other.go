//go:build !unix

package engine

// canCheckIdle says whether this platform can check an idle connection. If not, the client takes no requests.
const canCheckIdle = false

func (c *conn) peek(uintptr) bool { return true }

func (c *ciphertext) look(uintptr) bool { return true }
