package canary

import "time"

// Report is what is known of a run.
type Report struct {
	State    State
	Share    float64
	Reason   string // why the share is what it is; "" for the first
	Since    time.Time
	Revision string

	Elsewhere bool // another node has made the change that is reported

	Next      *Step // the step to come; nil if there is none, or the run is paused
	Remaining time.Duration

	Errors, Latency *Evidence // nil for what is not compared
	Sides           [2]Figures
}

// Evidence is the evidence that the canary is worse. It is rolled back from [Enough] on.
type Evidence struct{ Value float64 }

// Figures are what was seen of a side since the run began. A canary that was rolled back has those of that time.
type Figures struct {
	Requests, Failures uint64
	P50, P95           time.Duration // of the good answers of the last minute or two; 0 if there are none
}

// ErrorRate returns the share of failures.
func (f *Figures) ErrorRate() float64 {
	if f.Requests == 0 {
		return 0
	}
	return float64(f.Failures) / float64(f.Requests)
}

// Report returns what is known of the run.
func (r *Run) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := Report{State: r.state, Share: r.share, Reason: r.reason, Since: r.since, Revision: r.tag()}
	if r.state == Running {
		step := r.settings.Steps[r.next]
		o.Next, o.Remaining = &step, max(step.After-r.waited, 0)
	}
	if t := r.guard.errors; t != nil {
		o.Errors = &Evidence{t.evidence()}
	}
	if t := r.guard.latency; t != nil {
		o.Latency = &Evidence{t.evidence()}
	}
	for s := range o.Sides {
		seen, lately := &r.guard.seen[s], &r.guard.lately[s]
		o.Sides[s] = Figures{Requests: seen.total(), Failures: seen.failed, P50: lately.latency(0.5), P95: lately.latency(0.95)}
	}
	return o
}

// latency returns the latency that this share of the good answers does not exceed.
func (r *recent) latency(share float64) time.Duration {
	bucket, _ := r.quantile(share)
	if bucket < 0 {
		return 0
	}
	return boundOf(bucket)
}

// Total is what has been counted for good.
type Total struct{ Good, Failed uint64 }

// Total returns what has been counted of a side for good.
func (r *Run) Total(s Side) Total {
	var t tally
	r.counts[s].read(&t)
	return Total{Good: t.good(), Failed: t.failed}
}

// RollBacks returns how often the canary was rolled back, by itself or by hand.
func (r *Run) RollBacks() uint64 { return r.rollbacks.Load() }

// Share returns the share of the clients that the canary gets.
func (r *Run) Share() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.share
}
