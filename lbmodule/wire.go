package lbmodule

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// checkAnswer tells whether an answer to r is one that HTTP has. What it refuses is a failure of the backend, as garbage is.
func checkAnswer(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if _, twoWays := res.Body.(io.ReadWriteCloser); !twoWays {
			return errors.New("backend switches protocols over a transport that cannot")
		}
		return checkSwitch(upgradeOf(r.Header), upgradeOf(res.Header))
	case res.StatusCode < 100 || res.StatusCode > 999: // net/http's server panics over those
		return fmt.Errorf("answer has status %d, want three digits from 100 on", res.StatusCode)
	}
	return nil
}

// checkSwitch tells whether a backend may switch to that protocol (RFC 9110, 15.2.2).
func checkSwitch(asked, switched string) error {
	switch {
	case asked == "":
		return errors.New("backend switches protocols, which was not asked for")
	case !strings.EqualFold(asked, switched) || strings.ContainsFunc(switched, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("backend switches to protocol %q, asked for %q", switched, asked)
	}
	return nil
}

// upgradeOf is the protocol that a message asks to switch to, or switches to; "" for none.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}
