//go:build !unix

package command

import "os"

// endSignals end the view. It notices another size of the terminal at the next refresh.
var (
	endSignals    = []os.Signal{os.Interrupt}
	resizeSignals []os.Signal
	resumeSignals []os.Signal
)

// stopProcess does nothing: no shell lets a stopped process go on.
func stopProcess() {}
