package lbmodule

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// minRatioRequests is how many requests a share of failed ones must be of to mean anything.
const minRatioRequests = 20

// passive are reverse_proxy's passive checks. They are kept by ours, which count in buckets of time; there it would
// be a goroutine for each failure.
type passive struct {
	settings pool.Passive
	status   []int
	latency  time.Duration
}

// loadPassive makes the passive checks of reverse_proxy's words, and the share of failures of ours.
func (h *Handler) loadPassive() passive {
	words := &h.words.Passive
	if !words.Given {
		return passive{}
	}
	p := passive{
		settings: pool.Passive{Span: words.Span, MaxFails: words.MaxFails, MaxRatio: h.MaxFailRatio, MinRequests: minRatioRequests},
		status:   words.Status,
		latency:  words.Latency,
	}
	if p.settings.MaxFails == 0 && p.settings.MaxRatio == 0 {
		p.settings.MaxFails = 1
	}
	return p
}

// failed tells whether an attempt counts as failed for the passive checks.
func (p *passive) failed(res *http.Response, err error, took time.Duration) bool {
	if err != nil {
		return true
	}
	return p.latency > 0 && took >= p.latency ||
		slices.ContainsFunc(p.status, func(status int) bool { return caddyhttp.StatusCodeMatches(res.StatusCode, status) })
}

// boundInterval has a check of reverse_proxy's words, which takes any interval, made as often as one of ours can be.
func (h *Handler) boundInterval(stock *config.HealthCheck) {
	asked, r := stock.Interval, config.Ranges.Of("health_check.interval")
	stock.Interval = min(max(asked, caddy.Duration(r.Least)), caddy.Duration(r.Most))
	if stock.Interval == asked {
		return
	}
	const text = "health_interval is not what an interval can be; the nearest that can is taken"
	h.logger.Warn(text, zap.Duration("health_interval", time.Duration(asked)), zap.Duration("taken", time.Duration(stock.Interval)))
	h.warnings = append(h.warnings, text)
}
