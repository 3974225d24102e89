// Package server is an HTTP backend that behaves as it is told: by the query of a request, or for all requests by
// settings that are changed over HTTP while it runs. It is what the examples and tests put behind a load balancer.
//
//	any path      answers its name; ?status=503 ?delay=200ms ?size=1048576 ?slow=10x100ms (pieces, pause) ?abort=header|body
//	/echo         answers the request's body as it comes; ?whole=1 when all of it has come
//	/headers      answers the request's header fields as JSON
//	/healthz      200, or what the settings say
//	/ws           WebSocket echo
//	/sse          server-sent events; ?every=1s ?count=10
//	/_settings    GET shows the settings, PATCH changes those it names
//	/_stats       requests, those in flight, the most at a time, answers by status
//	/_reset       POST: stats and settings as at the start
//
// Every answer carries the header field X-Backend with the server's name.
package server

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/websocket"
)

// Server is the backend. It is safe for concurrent use.
type Server struct {
	name     string
	mux      *http.ServeMux
	settings atomic.Pointer[Settings]

	mu          sync.Mutex // guards the stats
	requests    int64
	inFlight    int64
	maxInFlight int64
	statuses    map[int]int64
}

// New returns a server of that name.
func New(name string) *Server {
	s := &Server{name: name, mux: http.NewServeMux()}
	s.reset()
	s.mux.HandleFunc("/", s.answer)
	s.mux.HandleFunc("/healthz", s.health)
	s.mux.HandleFunc("/echo", s.echo)
	s.mux.HandleFunc("/headers", s.headers)
	s.mux.HandleFunc("/sse", s.events)
	s.mux.Handle("/ws", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	return s
}

// ServeHTTP implements http.Handler. Requests to the underscored paths are not counted.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Backend", s.name)
	if s.serveControl(w, r) {
		return
	}
	s.count(func() {
		s.requests++
		s.inFlight++
		s.maxInFlight = max(s.maxInFlight, s.inFlight)
	})
	recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	defer s.count(func() {
		s.inFlight--
		s.statuses[recorder.status]++
	})
	s.mux.ServeHTTP(recorder, r)
}

func (s *Server) count(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Hijack hands the connection to the WebSocket handler, which asks for http.Hijacker.
func (w *statusRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.status = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap serves http.ResponseController.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answer serves any path.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	set, query := s.settings.Load(), r.URL.Query()
	if !set.enter(r) {
		return
	}
	defer set.leave()
	delay := set.delay()
	if s.takeSlow() {
		delay = time.Duration(set.SlowDelay)
	}
	if d, err := time.ParseDuration(query.Get("delay")); err == nil {
		delay = d
	}
	if !sleep(r, delay) {
		return
	}
	status := set.Status
	if set.FailRatio > 0 && rand.Float64() < set.FailRatio {
		status = http.StatusServiceUnavailable
	}
	if n, err := strconv.Atoi(query.Get("status")); err == nil && n >= 200 && n <= 599 {
		status = n
	}
	abort := cmp.Or(query.Get("abort"), set.Abort)
	if abort == "header" {
		panic(http.ErrAbortHandler)
	}
	if query.Has("size") || query.Has("slow") || abort == "body" {
		s.body(w, r, status, abort == "body")
		return
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, "%s %s %s\n", s.name, r.Method, r.URL.Path)
}

// body answers with as many bytes, in as many pieces, as the query says.
func (s *Server) body(w http.ResponseWriter, r *http.Request, status int, abort bool) {
	const mostBytes, mostPieces = 1 << 30, 10000
	query := r.URL.Query()
	size, _ := strconv.Atoi(query.Get("size"))
	size = min(max(size, 0), mostBytes)
	pieces, pause := 1, time.Duration(0)
	var every string
	if n, err := fmt.Sscanf(query.Get("slow"), "%dx%s", &pieces, &every); n == 2 && err == nil {
		pause, _ = time.ParseDuration(every)
	}
	pieces = min(max(pieces, 1), mostPieces)
	size = max(size, pieces)
	if abort || pieces == 1 {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	}
	w.WriteHeader(status)
	for i := range pieces {
		if i > 0 && !sleep(r, pause) {
			return
		}
		piece := size / pieces
		if i == pieces-1 {
			piece = size - piece*(pieces-1)
		}
		if abort {
			piece /= 2
		}
		if _, err := io.CopyN(w, filler{}, int64(piece)); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
	if abort {
		panic(http.ErrAbortHandler)
	}
}

// filler is an endless body.
type filler struct{}

func (filler) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '.'
	}
	return len(p), nil
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(s.settings.Load().Health)
	fmt.Fprintln(w, s.name)
}

func (s *Server) echo(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("whole") == "1" {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(body)
		return
	}
	_ = http.NewResponseController(w).EnableFullDuplex()
	_, _ = io.Copy(w, r.Body)
}

func (s *Server) headers(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r.Header)
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	every, err := time.ParseDuration(r.URL.Query().Get("every"))
	if err != nil || every <= 0 {
		every = time.Second
	}
	count, err := strconv.Atoi(r.URL.Query().Get("count"))
	if err != nil {
		count = 10
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range min(count, 1<<20) {
		if i > 0 && !sleep(r, every) {
			return
		}
		fmt.Fprintf(w, "data: %d from %s\n\n", i+1, s.name)
		_ = http.NewResponseController(w).Flush()
	}
}

// sleep waits and reports whether the client did, too.
func sleep(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
