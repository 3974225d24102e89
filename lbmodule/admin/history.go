package admin

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/dashboard"
	"github.com/ballastlb/ballast/lbmodule/history"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

// showHistory writes the history of the pool or, with ?backend=, of a backend.
func (c *apiCall) showHistory() error {
	p, err := dashboard.AskedPast(c.r)
	if err != nil {
		return apiError(http.StatusBadRequest, "%w", err)
	}
	content, err := historyOf(c.s, p)
	if err != nil {
		return err
	}
	p.Write(c.w, content)
	return nil
}

// historyOf returns the history of a pool or one of its backends, even if that has been removed.
func historyOf(s *service.Service, p dashboard.Past) ([]byte, error) {
	of, err := history.ParseRange(p.Range)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "%w", err)
	}
	answer := app.Remembered(s.Pool().Name(), of)
	if p.Backend != "" {
		name, address := p.Backend, p.Backend
		b, runs := findRunning(s.Running(time.Now()), p.Backend)
		if runs {
			name, address = b.Name, b.Address
		}
		of, known := app.RememberedOf(s.Pool(), name, address, of)
		if !runs && !known {
			return nil, unknownBackend(s, p.Backend)
		}
		answer = of
	}
	if p.CSV {
		return answer.CSV(), nil
	}
	return answer.JSON()
}

// History implements [dashboard.Source].
func (s liveState) History(p dashboard.Past) ([]byte, error) {
	in := s.app.ServiceOf(p.Pool)
	if in == nil {
		return nil, refused(apiError(http.StatusNotFound, "pool %s: not found", p.Pool))
	}
	content, err := historyOf(in, p)
	return content, refused(err)
}

// Explain implements [dashboard.Source].
func (s liveState) Explain(pool, backend string) ([]byte, error) {
	in := s.app.ServiceOf(pool)
	if in == nil {
		return nil, refused(apiError(http.StatusNotFound, "pool %s: not found", pool))
	}
	set, _ := in.Shown()
	if set == nil {
		return nil, refused(apiError(http.StatusConflict, "pool %s: it has no backends yet", pool))
	}
	x := status.Explain(in, set, nil)
	at := slices.IndexFunc(x.Candidates, func(c status.Candidate) bool { return c.Backend == backend })
	if at < 0 {
		return nil, refused(unknownBackend(in, backend))
	}
	others := 0
	for i, c := range x.Candidates {
		if c.In && i != at {
			others++
		}
	}
	return json.Marshal(backendExplanation{x.Policy, x.Candidates[at], others})
}

// backendExplanation tells whether a backend may be chosen for a new request, and why not.
type backendExplanation struct {
	Policy string `json:"policy"`
	status.Candidate
	Others int `json:"others"` // how many other backends may be chosen
}
