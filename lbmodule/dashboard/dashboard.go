// Package dashboard serves the page that shows operators the load balancer: the page itself, the stream that keeps it current, and the
// changes that it can make. What it shows is JSON from a [Source], which it passes on without decoding it.
package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
)

// Source provides what the dashboard shows, and makes its changes. It is safe for concurrent use.
type Source interface {
	// Snapshot returns the current state as JSON on one line:
	//
	//	{"time", "node", "pools": [...], "rate_limits": [...], "express": [...], "fleet": {...}, "process": {...}, "diffs": {"<pool>": {...}}}
	//
	// Unknown values are left out, and the page does not show them.
	Snapshot() ([]byte, error)

	// Events returns the events with higher numbers than after, a few hundred at most, oldest first.
	Events(after uint64) []Event

	// History returns the history of a pool or of one of its backends. If the error is a [Refusal], its status is that of the answer.
	History(Past) ([]byte, error)

	// Explain returns as JSON why a backend can or cannot be selected. If the error is a [Refusal], its status is that of the answer.
	Explain(pool, backend string) ([]byte, error)

	// Change changes a backend in the name of user. If the error is a [Refusal], its status is that of the answer.
	Change(ctx context.Context, pool, backend string, change []byte, user string) error
}

// Event is something that happened to a pool or a backend, such as a failed check.
type Event struct {
	ID   uint64          `json:"id"` // counts from 1 in each process
	Name string          `json:"name"`
	Data json.RawMessage `json:"data"` // an object with time, pool, backend, reason, ...
}

// Refusal is an error of a [Source] with the HTTP status of the answer.
type Refusal struct {
	Status int
	Err    error
}

func (r Refusal) Error() string { return r.Err.Error() }

func (r Refusal) Unwrap() error { return r.Err }

// Visit is one request to the dashboard.
type Visit struct {
	// File is the part of the path after the last slash: the name of the requested file. It is empty for the page.
	File string

	// Path is the path that the browser sent, before rewrites.
	Path string

	// User is the authenticated user that sent the request, empty if there is none.
	User string

	// Actions reports whether authenticated users may make changes.
	Actions bool
}

// Dashboard serves the page, wherever it is mounted.
type Dashboard struct {
	source Source
	hub    *hub
	origin *http.CrossOriginProtection
}

// New returns the dashboard of source. It calls source only while requests or streams need it.
func New(source Source) *Dashboard {
	return &Dashboard{source: source, hub: newHub(source), origin: http.NewCrossOriginProtection()}
}

// Close ends all streams; the pages reconnect by themselves.
func (d *Dashboard) Close() { d.hub.close() }

// Serve answers a request.
func (d *Dashboard) Serve(w http.ResponseWriter, r *http.Request, v Visit) {
	setHeader(w.Header())
	switch v.File {
	case "stream":
		if allow(w, r, http.MethodGet) {
			d.stream(w, r, v)
		}
	case "state":
		if allow(w, r, http.MethodGet, http.MethodHead) {
			d.state(w, r, v)
		}
	case "history":
		if allow(w, r, http.MethodGet) {
			d.history(w, r)
		}
	case "explain":
		if allow(w, r, http.MethodGet) {
			d.explain(w, r)
		}
	case "change":
		if allow(w, r, http.MethodPost) {
			d.change(w, r, v)
		}
	default:
		if allow(w, r, http.MethodGet, http.MethodHead) {
			d.servePage(w, r, v)
		}
	}
}

// policy restricts the page to its own files. With trusted types required and none allowed, scripts cannot turn text into markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

func setHeader(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// state answers with a snapshot that is at most one period old, for scripts. A page whose stream has ended sends HEAD to learn whether
// another stream would be refused.
func (d *Dashboard) state(w http.ResponseWriter, r *http.Request, v Visit) {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "application/json")
		if d.hub.canJoin(v.mayChange()) != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	s := d.hub.shots.get(r.Context(), period)
	if s.err != nil {
		fail(w, http.StatusInternalServerError, s.err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.state)
}

// allow reports whether the request has one of these methods. If not, it answers with 405.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
		w.Header().Add("Allow", m)
	}
	fail(w, http.StatusMethodNotAllowed, "method "+r.Method+": not allowed here")
	return false
}

// fail answers with an error, in the format of Caddy's admin endpoint.
func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}
