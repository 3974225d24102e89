//go:build unix

package command

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

// endSignals end the view. resizeSignals announce another size of the terminal, resumeSignals that the process continues after a stop.
var (
	endSignals    = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	resizeSignals = []os.Signal{syscall.SIGWINCH}
	resumeSignals = []os.Signal{syscall.SIGCONT}
)

// stopProcess stops the process and those that share its place in the shell, as ctrl-z does where the terminal acts on it. It returns
// once they go on. Where no shell could let them, the system ignores the signal.
func stopProcess() {
	const ignored = 200 * time.Millisecond // by then it would have stopped
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	_ = syscall.Kill(0, syscall.SIGTSTP)
	select {
	case <-resumed:
	case <-time.After(ignored):
	}
}
