package canary

import (
	"errors"
	"time"
)

// Action is an operator's change of a run.
type Action uint8

const (
	// Pause keeps the share as it is.
	Pause Action = iota
	// Resume continues with the steps. After a rollback, Restart must be used.
	Resume
	// SetShare sets the share and pauses.
	SetShare
	// RollBack takes all clients from the canary.
	RollBack
	// Promote gives all clients to the canary, with no more steps.
	Promote
	// Restart starts again, with the first share and without the earlier counts.
	Restart
	// Actions is the number of actions.
	Actions
)

// String returns the action as the API has it.
func (a Action) String() string {
	return [Actions]string{"pause", "resume", "share", "roll_back", "promote", "restart"}[a]
}

// ErrChanged means that the run has changed since the revision that a change was meant for.
var ErrChanged = errors.New("the canary has changed meanwhile")

// Do applies an operator's change. revision is the one that the change is meant for, "" for any; share is for SetShare.
func (r *Run) Do(a Action, share float64, revision string, now time.Time) (Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if revision != "" && revision != r.tag() {
		return Change{}, ErrChanged
	}
	was := r.state
	if was == RolledBack && a == Resume {
		a = Restart
	}
	if was == RolledBack && (a == SetShare || a == Promote) {
		r.guard = newGuard(&r.settings) // earlier evidence has had its effect
	}
	switch a {
	case Pause:
		if was == Running {
			r.state = Paused
		}
		share = r.share
	case Resume:
		share = r.share
		r.resume()
	case SetShare:
		if r.state = Paused; share == 0 {
			r.state = RolledBack
		}
	case RollBack:
		r.state, share = RolledBack, 0
	case Promote:
		r.state, share = Finished, 1
	case Restart:
		r.start()
		share = r.share
	}
	if r.state == RolledBack && was != RolledBack {
		r.rollbacks.Add(1)
	}
	if share == r.share && a != Restart { // the time at the share continues
		r.revision++
		r.willed = r.revision
		return Change{Share: share, State: r.state, Reason: ReasonByHand}, nil
	}
	change := r.move(share, ReasonByHand, now)
	r.willed = r.revision
	return change, nil
}

// resume continues with the first step above the share. The caller holds r.mu.
func (r *Run) resume() {
	if r.state != Paused {
		return
	}
	for r.next < len(r.settings.Steps) && r.settings.Steps[r.next].Share <= r.share {
		r.next, r.waited = r.next+1, 0
	}
	if r.state = Running; r.next == len(r.settings.Steps) {
		r.state = Finished
	}
}
