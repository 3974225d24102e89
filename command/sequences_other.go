//go:build !windows

package command

import "os"

// obeySequences has nothing to do: terminals obey escape sequences.
func obeySequences(*os.File) (restore func(), err error) { return func() {}, nil }
