//go:build unix

package command

import (
	"os"
	"syscall"
)

// endSignals end the view, resizeSignals say that the terminal has another size.
var (
	endSignals    = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	resizeSignals = []os.Signal{syscall.SIGWINCH}
)
