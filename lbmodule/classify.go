package lbmodule

import (
	"context"
	"errors"
	"net/http"
	"syscall"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// classify tells what an attempt says about its backend: status is that of the answer, 0 if there was none and
// err tells why. A request that its client gave up, and descriptors that we have run out of, are no backend's
// failure; neither is a status that a healthy application gives.
func classify(ctx context.Context, status int, err error) pool.Outcome {
	switch {
	case err == nil:
		switch status {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return pool.Failure
		}
		return pool.Success
	case errors.Is(err, context.Canceled), errors.Is(ctx.Err(), context.Canceled):
		return pool.Ignored
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return pool.Ignored
	default:
		return pool.Failure
	}
}
