package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/caddyapp"
)

// Mirror sends copies of requests to other systems, such as one with a new version. Requests do not wait for the answers to their copies,
// which are discarded. Only idempotent requests without a body are copied, unless they ask for an upgrade. Copies have the header field
// `X-Mirrored: 1`.
type Mirror struct {
	// The [network addresses](/docs/conventions#network-addresses) that copies are sent to, in turn. They must not be backends of the
	// pool. Placeholders of the environment may be used. Required.
	Upstreams []string `json:"upstreams,omitempty"`

	// The share of the copyable requests that is copied, up to 1. Required.
	Share float64 `json:"share,omitempty"`

	// The time after which a copy is canceled. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The number of copies that may be in flight at a time. More are dropped. Default: 100.
	MaxRequests int `json:"max_requests,omitempty"`
}

const (
	defaultMirrorTimeout     = caddy.Duration(5 * time.Second)
	defaultMirrorMaxRequests = 100

	// maxMirrors bounds the number of upstreams of a mirror.
	maxMirrors = 64
)

// check checks what is known before placeholders are replaced.
func (m *Mirror) check() error {
	if m == nil {
		return nil
	}
	switch n := len(m.Upstreams); {
	case n == 0:
		return errors.New("mirror: upstreams: missing; there must be at least one address")
	case n > maxMirrors:
		return fmt.Errorf("mirror: upstreams: %d given: must be at most %d", n, maxMirrors)
	}
	for i, address := range m.Upstreams {
		switch {
		case address == "":
			return errors.New("mirror: upstreams: one is empty; it must be a host:port or a unix socket")
		case strings.Contains(address, "{http."):
			return errMirrorTemplate(address)
		case slices.Contains(m.Upstreams[:i], address):
			return fmt.Errorf("mirror: %s: given twice", address)
		}
		if err := ValidateAddress(address); err != nil {
			return fmt.Errorf("mirror: %s: %w", address, err)
		}
	}
	return InRange("mirror.share", m.Share)
}

func errMirrorTemplate(address string) error {
	return fmt.Errorf("mirror: %s: must not depend on the request, but may have placeholders of the environment", address)
}

func errMirrorBackend(address string) error {
	return fmt.Errorf("mirror: %s: is a backend of the pool, which would get copied requests twice", address)
}

// Resolve returns the mirror with placeholders replaced, and with the defaults of all settings that are left out; nil for none.
// isBackend reports whether an address is that of a backend of the pool.
func (m *Mirror) Resolve(isBackend func(address string) bool) (*Mirror, error) {
	if m == nil {
		return nil, nil
	}
	filled, environment := *m, caddy.NewReplacer()
	filled.Upstreams = nil
	filled.Timeout = cmp.Or(m.Timeout, defaultMirrorTimeout)
	filled.MaxRequests = cmp.Or(m.MaxRequests, defaultMirrorMaxRequests)
	for _, given := range m.Upstreams {
		address := environment.ReplaceKnown(given, "")
		if IsTemplate(address) {
			return nil, errMirrorTemplate(given)
		}
		if isBackend(address) {
			return nil, errMirrorBackend(address)
		}
		filled.Upstreams = append(filled.Upstreams, address)
	}
	return &filled, filled.check()
}

// CheckMirror checks the mirror against the other settings: a mirror must not be a backend of the pool, and the transport must not need the
// client's request.
func (s *Settings) CheckMirror(rp *reverseproxy.Handler, backends []*Backend) error {
	if s.Mirror == nil {
		return nil
	}
	for _, address := range s.Mirror.Upstreams {
		if slices.ContainsFunc(rp.Upstreams, func(u *reverseproxy.Upstream) bool { return u.Dial == address }) ||
			slices.ContainsFunc(backends, func(b *Backend) bool { return b.Address == address }) {
			return caddyapp.About(errMirrorBackend(address), "mirror")
		}
	}
	return caddyapp.About(checkMirrorTransport(rp.TransportRaw), "mirror", "transport")
}

func checkMirrorTransport(raw json.RawMessage) error {
	switch transport := ReadTransport(raw); {
	case transport.Protocol == "":
		return nil // not set, or an error that loading the transport reports
	case transport.Protocol != "http":
		return fmt.Errorf("mirror: transport %s: must be http; others may need the client's request, which may be over before its copy", transport.Protocol)
	case transport.ProxyProtocol != "":
		return errors.New("mirror: the transport uses the PROXY protocol, whose connections each belong to one client")
	case dependsOnRequest(transport.TLS.ServerName):
		return fmt.Errorf("mirror: tls_server_name %s: must not depend on the request, which may be over before its copy", transport.TLS.ServerName)
	default:
		return nil
	}
}

// dependsOnRequest reports whether a text has placeholders of a request. Placeholders of the upstream do not need one.
func dependsOnRequest(text string) bool {
	return strings.Contains(strings.ReplaceAll(text, "{http.reverse_proxy.upstream.", ""), "{http.")
}
