//go:build !unix

package command

import "os"

// endSignals end the view. That the terminal has another size shows at the next look.
var (
	endSignals    = []os.Signal{os.Interrupt}
	resizeSignals []os.Signal
	resumeSignals []os.Signal
)

// stopProcess does nothing: no shell lets a stopped process go on.
func stopProcess() {}
