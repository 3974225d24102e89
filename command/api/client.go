package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Paths of the API.
const (
	PoolsPath   = "/load_balancer/pools"
	LimitsPath  = "/load_balancer/rate_limits"
	ExpressPath = "/load_balancer/express"
	FleetPath   = "/load_balancer/fleet"
	eventsPath  = "/load_balancer/events"
)

// Path joins a path of the API and names, which it escapes.
func Path(base string, names ...string) string {
	for _, name := range names {
		base += "/" + url.PathEscape(name)
	}
	return base
}

// Client calls the API of one Caddy.
type Client struct {
	name   string
	origin string // scheme and host
	http   *http.Client
}

// NewClient returns a client of the admin endpoint that listens at address, a host and port or the path of a Unix socket. Errors contain
// name.
func NewClient(name, network, address string) *Client {
	c := &Client{name: name, origin: "http://" + address}
	if strings.HasPrefix(network, "unix") {
		c.origin = "http://127.0.0.1" // a host that the endpoint takes on a socket
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	c.http = &http.Client{
		// A change must not be sent to the target of a redirect.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, address)
			},
			// A reload replaces the endpoint, and with it closes all connections.
			DisableKeepAlives: true,
		},
	}
	return c
}

// Name returns the name of the endpoint.
func (c *Client) Name() string { return c.name }

// Request is a request to the API. Only Method and Path are required.
type Request struct {
	Method  string
	Path    string // percent-encoded
	Query   url.Values
	IfMatch string // ETag that must still match
	Body    any    // sent as JSON unless nil

	lastEvent string // id of the last event that was seen, for the stream
}

// Answer is a successful answer of the server.
type Answer struct {
	Status int
	ETag   string
	Time   time.Time // by the server's clock, if the server sends it
	Body   []byte
}

// Decode reads the answer's JSON into v.
func (a *Answer) Decode(v any) error {
	if err := json.Unmarshal(a.Body, v); err != nil {
		return &Error{Status: a.Status, Message: fmt.Sprintf("the answer cannot be read: %v", err)}
	}
	return nil
}

// Error is an error that the server answered, with the server's message.
type Error struct {
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// Unreachable means that there was no answer.
type Unreachable struct {
	Name string // name of the endpoint
	Err  error
}

func (e *Unreachable) Error() string {
	return fmt.Sprintf("cannot reach Caddy's admin endpoint at %s: %v", e.Name, e.Err)
}

func (e *Unreachable) Unwrap() error { return e.Err }

// maxAnswer bounds the size of an answer: one for a pool of a hundred thousand backends is smaller.
const maxAnswer = 256 << 20

// Do sends a request and waits for the answer. Its error is an *[Error] or an *[Unreachable], unless the request is invalid.
func (c *Client) Do(ctx context.Context, r Request) (*Answer, error) {
	res, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, &Unreachable{c.name, err}
	}
	answer := &Answer{Status: res.StatusCode, ETag: res.Header.Get("ETag"), Time: time.Now(), Body: body}
	if t, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		answer.Time = t
	}
	return answer, nil
}

// send sends a request and returns a successful answer.
func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	var body io.Reader
	if r.Body != nil {
		text, err := json.Marshal(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	target := c.origin + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Origin", c.origin) // the endpoint may require it
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.IfMatch != "" {
		req.Header.Set("If-Match", r.IfMatch)
	}
	if r.lastEvent != "" {
		req.Header.Set("Last-Event-ID", r.lastEvent)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err // the method and the URL mean nothing to the user
		}
		return nil, &Unreachable{c.name, err}
	}
	if res.StatusCode >= 300 {
		defer res.Body.Close()
		return nil, refusal(res)
	}
	return res, nil
}

// refusal reads the API's error from an answer, or whatever the answer has instead.
func refusal(res *http.Response) *Error {
	const most = 64 << 10
	text, _ := io.ReadAll(io.LimitReader(res.Body, most)) // as much as could be read
	var said struct {
		Error string `json:"error"`
	}
	e := &Error{Status: res.StatusCode}
	switch {
	case json.Unmarshal(text, &said) == nil && said.Error != "":
		e.Message = said.Error
	case len(bytes.TrimSpace(text)) > 0:
		e.Message = fmt.Sprintf("%s: %s", res.Status, bytes.TrimSpace(text))
	default:
		e.Message = res.Status
	}
	return e
}

// Pools returns all pools, sorted by name.
func (c *Client) Pools(ctx context.Context) ([]Pool, *Answer, error) {
	answer, err := c.Do(ctx, Request{Method: http.MethodGet, Path: PoolsPath})
	if err != nil {
		return nil, nil, err
	}
	var pools []Pool
	return pools, answer, answer.Decode(&pools)
}
