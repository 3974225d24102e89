package command

import (
	"os"

	"golang.org/x/sys/windows"
)

// obeySequences lets the console obey escape sequences, which older ones do only if they are asked to.
func obeySequences(out *os.File) (restore func(), err error) {
	handle := windows.Handle(out.Fd())
	var before uint32
	if err := windows.GetConsoleMode(handle, &before); err != nil {
		return nil, err
	}
	if err := windows.SetConsoleMode(handle, before|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING); err != nil {
		return nil, err
	}
	return func() { _ = windows.SetConsoleMode(handle, before) }, nil
}
