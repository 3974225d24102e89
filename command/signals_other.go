//go:build !unix

package command

import "os"

// endSignals end the view. It notices another size of the terminal at the next refresh.
var (
	endSignals    = []os.Signal{os.Interrupt}
	resizeSignals []os.Signal
)
