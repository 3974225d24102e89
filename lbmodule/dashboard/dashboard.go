// Package dashboard is the page that an operator keeps open: the page itself, the stream that keeps it current, and the changes it
// can make. It knows nothing of what it shows but JSON, which it has from a [Source].
package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
)

// Source is what the dashboard shows and changes. It is safe for concurrent use.
type Source interface {
	// Snapshot returns the current state as JSON on one line:
	//
	//	{"time", "node", "pools": [...], "rate_limits": [...], "express": [...], "fleet": {...}, "process": {...}, "diffs": {"<pool>": {...}}}
	//
	// What is not known is left out; the page does not show it then.
	Snapshot() ([]byte, error)

	// Events returns the events after that one, a few hundred at most, the oldest first.
	Events(after uint64) []Event

	// History returns what is remembered of a pool or of one of its backends. An error that is a [Refusal] says how to answer.
	History(Past) ([]byte, error)

	// Explain returns why a backend may be chosen or not, as JSON. An error that is a [Refusal] says how to answer.
	Explain(pool, backend string) ([]byte, error)

	// Change changes a backend in the name of user. An error that is a [Refusal] says how to answer.
	Change(ctx context.Context, pool, backend string, change []byte, user string) error
}

// Event is something that happened.
type Event struct {
	ID   uint64          `json:"id"` // rising, from 1 when the process started
	Name string          `json:"name"`
	Data json.RawMessage `json:"data"` // an object with time, pool, backend, reason, ...
}

// Refusal is why a change was not made, with the HTTP status that says so.
type Refusal struct {
	Status int
	Err    error
}

func (r Refusal) Error() string { return r.Err.Error() }

func (r Refusal) Unwrap() error { return r.Err }

// Visit is one request to the dashboard.
type Visit struct {
	// File is the last part of the path, behind its last slash: what is asked for. It is empty for the page.
	File string

	// Path is the path as the browser has it, before it was rewritten.
	Path string

	// User is who sent the request, as far as that has been proven. It is empty for strangers.
	User string

	// Actions tells that users may make changes.
	Actions bool
}

// Dashboard serves the page, wherever it is mounted.
type Dashboard struct {
	source Source
	hub    *hub
	origin *http.CrossOriginProtection
}

// New returns the dashboard of source. Until somebody looks at it, source is not asked for anything.
func New(source Source) *Dashboard {
	return &Dashboard{source: source, hub: newHub(source), origin: http.NewCrossOriginProtection()}
}

// Close ends all streams; the pages come back by themselves.
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

// policy lets the page use its own files and nothing else. Text cannot become markup: there is no way to make markup of text.
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

// state answers with a snapshot that is at most a period old, for scripts. A page whose stream has ended asks with HEAD whether another
// stream would be refused.
func (d *Dashboard) state(w http.ResponseWriter, r *http.Request, v Visit) {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Type", "application/json")
		if d.hub.open(v.mayChange()) != nil {
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

// allow reports whether the request has one of these methods, and answers it otherwise.
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
		w.Header().Add("Allow", m)
	}
	fail(w, http.StatusMethodNotAllowed, "method "+r.Method+": not possible here")
	return false
}

// fail answers with an error, in the shape of Caddy's admin endpoint.
func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}
