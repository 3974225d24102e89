package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/ballastlb/ballast/healthcheck"
)

const (
	// maxBody is the default bound of the body.
	maxBody = 1 << 20
	// maxDrain bounds how much of an unused answer is read so that the connection can be used again.
	maxDrain = 64 << 10
)

// HTTP probes with a request. Redirects are judged by their status, unless they are followed.
type HTTP struct {
	// Dial, if set, has probes made by HTTP/1.1 on a connection of their own, by the calling goroutine alone: a
	// transport has two more for each connection, and it is these that thousands of checks cost most. There are no
	// redirects to follow then. The connection is kept for the next probes; see Close.
	Dial Dialer

	Transport       http.RoundTripper                         // makes the probes if Dial is nil
	Prepare         func(ctx context.Context) context.Context // adds values that the transport needs; may be nil
	Method          string
	URL             string
	Host            string // of the request; "" for that of URL
	Header          http.Header
	Body            string
	FollowRedirects bool

	Status  []healthcheck.StatusRange // one of them must hold the status; empty: 200 to 299
	Match   *regexp.Regexp            // must match the answer's body; nil: anything does
	MaxBody int64                     // how much of the body is looked at, in bytes; 0 for 1 MiB

	conn keptConn // with Dial
}

var success = []healthcheck.StatusRange{{First: 200, Last: 299}}

// Probe implements [Prober].
func (p *HTTP) Probe(ctx context.Context) (int, error) {
	if p.Prepare != nil {
		ctx = p.Prepare(ctx)
	}
	var body io.Reader
	if p.Body != "" {
		body = strings.NewReader(p.Body)
	}
	r, err := http.NewRequestWithContext(ctx, p.Method, p.URL, body)
	if err != nil {
		return 0, err
	}
	r.Header = p.Header.Clone()
	if r.Header == nil {
		r.Header = make(http.Header)
	}
	r.Host = p.Host
	if p.Dial != nil {
		return p.probeDirectly(ctx, r)
	}
	client := http.Client{Transport: p.Transport}
	if !p.FollowRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	res, err := client.Do(r)
	if err != nil {
		// The URL that http.Client puts in front is redundant.
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return 0, err
	}
	defer func() {
		_, _ = io.CopyN(io.Discard, res.Body, maxDrain)
		res.Body.Close()
	}()
	return res.StatusCode, p.judge(res)
}

func (p *HTTP) judge(res *http.Response) error {
	ranges := p.Status
	if len(ranges) == 0 {
		ranges = success
	}
	expected := false
	for _, r := range ranges {
		expected = expected || (res.StatusCode >= r.First && res.StatusCode <= r.Last)
	}
	if !expected {
		return fmt.Errorf("status %d is not expected", res.StatusCode)
	}
	if p.Match == nil {
		return nil
	}
	limit := p.MaxBody
	if limit <= 0 {
		limit = maxBody
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit))
	if err != nil {
		return fmt.Errorf("reading body: %w", err)
	}
	if !p.Match.Match(body) {
		return errors.New("body does not match")
	}
	return nil
}

// Dialer connects to the backend.
type Dialer func(ctx context.Context) (net.Conn, error)

// TCP probes by making a connection.
type TCP struct{ Dial Dialer }

// Probe implements [Prober].
func (p *TCP) Probe(ctx context.Context) (int, error) {
	conn, err := p.Dial(ctx)
	if err != nil {
		return 0, err
	}
	return 0, conn.Close()
}

// TLS probes with a handshake.
type TLS struct {
	Dial   Dialer
	Config *tls.Config
}

// Probe implements [Prober].
func (p *TLS) Probe(ctx context.Context) (int, error) {
	conn, err := p.Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := tls.Client(conn, p.Config.Clone()).HandshakeContext(ctx); err != nil {
		return 0, fmt.Errorf("handshake: %w", err)
	}
	return 0, nil
}
