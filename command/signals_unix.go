//go:build unix

package command

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endSignals end the view, resizeSignals report a new size of the terminal, and resumeSignals report that a stopped process continues.
var (
	endSignals    = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	resizeSignals = []os.Signal{syscall.SIGWINCH}
	resumeSignals = []os.Signal{syscall.SIGCONT}
)

// stopProcess stops the process group, as ctrl-z does outside raw mode, and returns when it continues. The system ignores the signal if no
// shell could resume the group.
func stopProcess() {
	const ignored = 200 * time.Millisecond // after this time the signal must have been ignored
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	_ = syscall.Kill(0, syscall.SIGTSTP)
	select {
	case <-resumed:
	case <-time.After(ignored):
	}
}
