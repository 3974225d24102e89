package command

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/command/api"
)

// Exit codes, in addition to those of Caddy. The help of `caddy lb` documents them.
const (
	exitFailed      = caddy.ExitCodeFailedStartup // wrong usage, and errors without a code of their own
	exitNotFound    = 4
	exitConflict    = 5
	exitRefused     = 6
	exitUnreachable = 7
	exitTimeout     = 8
	exitPartly      = 9
)

// commandError is an error with an exit code of its own.
type commandError struct {
	code    int
	message string
}

func (e *commandError) Error() string { return e.message }

func errorf(code int, format string, args ...any) error {
	return &commandError{code, fmt.Sprintf(format, args...)}
}

// silentError returns an exit code without a message, because the message was printed.
func silentError(code int) error { return &commandError{code: code} }

func usageErrorf(format string, args ...any) error { return errorf(exitFailed, format, args...) }

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	if err == nil {
		return caddy.ExitCodeSuccess
	}
	if e, ok := errors.AsType[*commandError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*api.Unreachable](err); ok {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		switch e.Status {
		case http.StatusNotFound:
			return exitNotFound
		case http.StatusConflict, http.StatusPreconditionFailed:
			return exitConflict
		default:
			return exitRefused
		}
	}
	return exitFailed
}
