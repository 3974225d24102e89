package simulate

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// arrivals says when requests arrive.
type arrivals interface {
	// next returns when the next request arrives, and from which client; ok is false after the last one.
	next() (at time.Duration, client int, ok bool)
	clients() int
}

// newArrivals returns the arrivals of a scenario, whose duration it sets if they come from a log.
func newArrivals(s *Scenario, random *rand.Rand, logs logs) (arrivals, error) {
	a := &s.Arrivals
	if a.Log == "" {
		return &generated{
			Arrivals: *a, random: random, clientCount: s.Clients, end: time.Duration(s.WarmUp + s.Duration),
			gap: time.Duration(float64(time.Second) / a.Rate),
		}, nil
	}
	log, err := logs.read(a.Log)
	if err != nil {
		return nil, fmt.Errorf("arrivals: %w", err)
	}
	last := log.requests[len(log.requests)-1].at
	s.Duration = cmp.Or(s.Duration, max(caddy.Duration(last)+1-s.WarmUp, 1))
	return &replayed{log: log, end: time.Duration(s.WarmUp + s.Duration)}, nil
}

// generated are arrivals at a rate.
type generated struct {
	Arrivals
	random      *rand.Rand
	clientCount int
	end         time.Duration
	gap         time.Duration // the mean time between two arrivals
	at          time.Duration
	left        int // requests left of a burst
}

func (g *generated) next() (at time.Duration, client int, ok bool) {
	switch g.Process {
	case "constant":
		g.at += g.gap
	case "bursts":
		if g.left == 0 {
			g.at += g.gap * time.Duration(g.Burst)
			g.left = g.Burst
		}
		g.left--
	default:
		g.at += time.Duration(g.random.ExpFloat64() * float64(g.gap))
	}
	return g.at, g.random.IntN(g.clientCount), g.at < g.end
}

func (g *generated) clients() int { return g.clientCount }

// replayed are arrivals from a log.
type replayed struct {
	log *accessLog
	end time.Duration
	n   int
}

func (r *replayed) next() (at time.Duration, client int, ok bool) {
	if r.n == len(r.log.requests) {
		return 0, 0, false
	}
	q := r.log.requests[r.n]
	r.n++
	return q.at, q.client, q.at < r.end
}

func (r *replayed) clients() int { return r.log.clients }

// accessLog is an access log in Caddy's JSON format.
type accessLog struct {
	requests []loggedRequest // in the order of their arrival
	clients  int
	all      []caddy.Duration            // how long requests took
	attempts map[string][]caddy.Duration // how long attempts took, by backend
}

type loggedRequest struct {
	at     time.Duration // since the first request
	client int
}

// of returns the durations of a backend's attempts, or those of all requests if the log has no attempts of the backend.
func (l *accessLog) of(name, address string) []caddy.Duration {
	for _, key := range []string{name, address} {
		if own := l.attempts[key]; len(own) > 0 {
			return own
		}
	}
	return l.all
}

// logs holds the logs that have been read, by file.
type logs map[string]*accessLog

// maxLogLine bounds a line of a log, in bytes.
const maxLogLine = 16 << 20

// read reads a log. It skips lines that are not requests.
func (l logs) read(name string) (*accessLog, error) {
	if log := l[name]; log != nil {
		return log, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	defer file.Close()
	log, err := readLog(file)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", name, err)
	}
	l[name] = log
	return log, nil
}

// logLine is the relevant part of a line.
type logLine struct {
	Time     *float64 `json:"ts"` // when the request ended, in seconds
	Duration *float64 `json:"duration"`
	Request  *struct {
		ClientIP string `json:"client_ip"`
		RemoteIP string `json:"remote_ip"`
	} `json:"request"`
	Balancer *struct {
		Attempts []struct {
			Backend string  `json:"backend"`
			Status  int     `json:"status"`
			Took    float64 `json:"ms"`
		} `json:"attempts"`
	} `json:"load_balancer"`
}

func readLog(r io.Reader) (*accessLog, error) {
	log := &accessLog{attempts: make(map[string][]caddy.Duration)}
	clients := make(map[string]int)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLogLine)
	for lines.Scan() {
		var line logLine
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Time == nil || line.Duration == nil || line.Request == nil ||
			!(*line.Duration >= 0 && *line.Duration < 1e6 && *line.Time >= 0 && *line.Time < 1e10) {
			continue
		}
		address := cmp.Or(line.Request.ClientIP, line.Request.RemoteIP)
		client, known := clients[address]
		if !known {
			client = len(clients)
			clients[address] = client
		}
		took := time.Duration(*line.Duration * float64(time.Second))
		log.all = append(log.all, caddy.Duration(took))
		log.requests = append(log.requests, loggedRequest{at: time.Duration(*line.Time*float64(time.Second)) - took, client: client})
		if line.Balancer == nil {
			continue
		}
		for _, a := range line.Balancer.Attempts {
			if a.Status != 0 && a.Took >= 0 && a.Took < 1e9 { // otherwise it was not answered
				log.attempts[a.Backend] = append(log.attempts[a.Backend], caddy.Duration(a.Took*float64(time.Millisecond)))
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(log.requests) == 0 {
		return nil, errors.New("has no requests in Caddy's JSON format, with ts, duration and request")
	}
	slices.SortStableFunc(log.requests, func(a, b loggedRequest) int { return cmp.Compare(a.at, b.at) })
	first := log.requests[0].at
	for i := range log.requests {
		log.requests[i].at -= first
	}
	log.clients = len(clients)
	return log, nil
}
