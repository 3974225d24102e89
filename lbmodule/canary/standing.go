package canary

import "time"

// Standing is the progress of a run, which is stored so that it survives the process.
type Standing struct {
	State  State
	Share  float64
	Reason string
	Next   int           // index of the next step
	Waited time.Duration // time at the share, which counts for the next step
	Since  time.Time     // of the share

	Revision uint64 // changes with each change of the run
	Willed   uint64 // the revision of the last change that was not a step: by an operator, or by the guard
}

// Standing returns the progress of the run.
func (r *Run) Standing() Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Standing{
		State: r.state, Share: r.share, Reason: r.reason, Next: r.next, Waited: r.waited, Since: r.since, Revision: r.revision, Willed: r.willed,
	}
}

// fits reports whether a run with these settings can have this progress.
func (s *Settings) fits(o *Standing) bool {
	return o.State < States && o.Share >= 0 && o.Share <= 1 && o.Next >= 0 && o.Next <= len(s.Steps) && o.Waited >= 0 &&
		(o.State != Running || o.Next < len(s.Steps)) && (o.State == RolledBack) == (o.Share == 0)
}

// Fits reports whether the run can have this progress.
func (r *Run) Fits(s *Standing) bool { return r.settings.fits(s) }

// Adopt sets the progress of the run to that of another one with the same settings. It does nothing, and reports false, if s does not fit,
// or if the run's revision is not that of s any more, on which the decision to adopt was based. revision is the new revision. The run keeps
// its own counts.
func (r *Run) Adopt(s Standing, now time.Time) (change Change, revision uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.Revision != r.revision || !r.settings.fits(&s) {
		return Change{}, r.revision, false
	}
	if r.state == RolledBack && s.State != RolledBack {
		r.guard = newGuard(&r.settings) // earlier evidence has had its effect
	}
	if r.state != RolledBack && s.State == RolledBack {
		r.rollbacks.Add(1)
	}
	r.state, r.next, r.waited = s.State, s.Next, s.Waited
	if s.Share == r.share { // requests need not settle
		r.reason = s.Reason
		r.revision++
	} else {
		r.move(s.Share, s.Reason, now)
	}
	if !s.Since.IsZero() {
		r.since = s.Since
	}
	return Change{Share: s.Share, State: s.State, Reason: s.Reason, Elsewhere: true}, r.revision, true
}
