//go:build !unix

package command

import "os"

// endSignals end the view. Without resizeSignals, the view notices a new size of the terminal at the next refresh.
var (
	endSignals    = []os.Signal{os.Interrupt}
	resizeSignals []os.Signal
	resumeSignals []os.Signal
)

// stopProcess does nothing, because shells here cannot resume a stopped process.
func stopProcess() {}
