//go:build unix

package command

import (
	"os"
	"syscall"
)

// endSignals end the view. resizeSignals announce another size of the terminal.
var (
	endSignals    = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	resizeSignals = []os.Signal{syscall.SIGWINCH}
)
