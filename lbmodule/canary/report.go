package canary

import "time"

// Report describes a run.
type Report struct {
	State    State
	Share    float64
	Reason   string // why the share has its value; "" for the first
	Since    time.Time
	Revision string

	Elsewhere bool // another node made the change

	Next      *Step // the next step; nil if there is none, or if the run is paused
	Remaining time.Duration

	Errors, Latency *Evidence // nil for one that is not compared
	Sides           [2]Figures
}

// Evidence is the evidence that the canary is worse. At [Enough] it is rolled back.
type Evidence struct{ Value float64 }

// Figures are the counts of a side since the run began. Those of a canary that was rolled back are from that time.
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

// Report describes the run.
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

// latency returns that quantile of the good answers.
func (r *recent) latency(share float64) time.Duration {
	bucket, _ := r.quantile(share)
	if bucket < 0 {
		return 0
	}
	return boundOf(bucket)
}

// Total has counts that are never reset.
type Total struct{ Good, Failed uint64 }

// Total returns the counts of a side that are never reset.
func (r *Run) Total(s Side) Total {
	var t tally
	r.counts[s].read(&t)
	return Total{Good: t.good(), Failed: t.failed}
}

// RollBacks returns how often the canary was rolled back, automatically or by an operator.
func (r *Run) RollBacks() uint64 { return r.rollbacks.Load() }

// Share returns the canary's share of the clients.
func (r *Run) Share() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.share
}
