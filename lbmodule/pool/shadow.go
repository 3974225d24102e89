package pool

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/shadow"
)

// Shadow runs a policy beside the one in force, without effect on requests. It picks among the same members, but keeps loads and latencies
// of its own, so that its decisions influence nothing else. Views with the same shadow policy share it.
type Shadow struct {
	pool   *Pool
	policy balance.Policy
	dice   *balance.Dice
	refs   int // number of views that use it; guarded by Pool.mu

	// ends holds the requests that the shadow policy would have given to another member than the policy in force did, until they would have
	// been answered.
	ends  *shadow.Ends[supposed]
	ended func(supposed)

	agreed, differed, full, dropped atomic.Uint64

	expected, took Histogram
	recently       struct{ expected, took Latency }

	forgotten ShadowShare // the sums of deleted members without counters of their own; guarded by Pool.mu
}

// shade is the state that a Shadow keeps for a member.
type shade struct {
	of     *Shadow
	member *Member

	load    atomic.Int64 // requests that the member would be serving
	latency balance.Latency
	samples shadow.Samples // durations of requests that it served in reality

	chosen, given atomic.Uint64
	pace          pace // of chosen; guarded by Pool.looking
}

// supposed is a request that a member would be serving under the shadow policy.
type supposed struct {
	at     *shade
	ticket balance.Ticket
}

const (
	// maxSupposed bounds the number of requests that a Shadow tracks at other members than the real ones.
	maxSupposed = 1 << 14
	// maxDue is the maximum number of such requests that one decision ends. It is more than one, so that they do not pile up.
	maxDue = 64
)

// Shadowed is the state of a Shadow's decision on a request. It lasts as long as the lease that the policy in force granted. The zero
// Shadowed is no decision.
type Shadowed struct {
	given   *shade // the member that the request was given to
	follows *shade // the chosen member, if the supposed request ends together with the real one; otherwise nil
	ticket  balance.Ticket
	waits   bool // the supposed request still waits for the answer of follows
	good    bool // the real request was served well
	began   time.Time
	expects time.Duration // how long the request would take, if follows is nil; 0 without a decision
}

// Shadow returns the shadow policy of the view; nil for none.
func (v *View) Shadow() *Shadow { return v.shadow }

// Shadow lets the view's shadow policy decide on the request of the lease, which has just been granted. It stores the state of the decision
// in d, which must remain valid until the lease ends.
func (l *Lease) Shadow(d *Shadowed, key Key, now time.Time) {
	v := l.view
	snapshot, sh := v.snap.Load(), v.shadow
	if snapshot.first == len(snapshot.tiers) {
		return // the request belongs to a session of a draining member, and no member takes new requests
	}
	sh.ends.Due(now.UnixNano(), maxDue, sh.ended)
	given := v.shades[l.index]
	*d = Shadowed{given: given, began: now}
	l.shadowed = d
	i := snapshot.pickShadow(key, sh.dice)
	if i < 0 {
		sh.full.Add(1)
		return
	}
	chosen := v.shades[i]
	chosen.changed(v)
	d.ticket = chosen.latency.Asked(now)
	if chosen == given {
		sh.agreed.Add(1)
		d.follows, d.waits = chosen, true
	} else if took, known := chosen.samples.Draw(sh.dice); !known {
		sh.differed.Add(1)
		d.follows, d.waits = chosen, true
	} else if sh.ends.Add(supposed{chosen, d.ticket}, now.Add(took).UnixNano()) {
		sh.differed.Add(1)
		d.expects = took
	} else {
		sh.dropped.Add(1)
		chosen.end(d.ticket, true, false, now)
		return
	}
	chosen.chosen.Add(1)
	given.given.Add(1)
}

// end ends a supposed request at the member.
func (s *shade) end(k balance.Ticket, waits, answered bool, now time.Time) {
	if waits {
		s.latency.Told(k, answered, now)
	}
	s.load.Add(-1)
	s.changed(nil)
}

// changed notifies the member's views that use the Shadow, except from, that the load has changed.
func (s *shade) changed(from *View) {
	for w := range s.member.watchers.Load().all {
		if w.view != from && w.view.shadow == s.of {
			w.view.snap.Load().shadowChanged(w.index)
		}
	}
}

// heard records that the supposed request is answered, if it was given to the same member as the real one.
func (d *Shadowed) heard(now time.Time) {
	if d != nil && d.waits && d.follows == d.given {
		d.waits = false
		d.follows.latency.Told(d.ticket, true, now)
	}
}

// end ends the decision together with the real request.
func (d *Shadowed) end() {
	sh := d.given.of
	now := sh.pool.now()
	took := now.Sub(d.began)
	if d.follows != nil {
		d.follows.end(d.ticket, d.waits, d.good, now)
		d.expects = took
	}
	// Both distributions cover the same requests: those that were served well in reality.
	if d.good && d.expects > 0 {
		sh.took.Add(took)
		sh.recently.took.Add(took, now)
		sh.expected.Add(d.expects)
		sh.recently.expected.Add(d.expects, now)
	}
	if d.good {
		d.given.samples.Add(took)
	}
	*d = Shadowed{}
}

// shade returns the Shadow's state of the lease's member; nil without a shadow policy.
func (l *Lease) shade() *shade {
	if l.member == nil || l.view.shadow == nil {
		return nil
	}
	return l.view.shades[l.index]
}

// Failed records a bad answer of the lease's member, or a failure without an answer, in its latency estimate.
func (l *Lease) Failed(took time.Duration, now time.Time) {
	l.member.latency.Failed(took, now)
	if s := l.shade(); s != nil {
		s.latency.Failed(took, now)
		l.shadowed.heard(now)
	}
}

// Unanswered records in the latency estimate that there was no answer in that time, for a reason that is not the member's fault.
func (l *Lease) Unanswered(took time.Duration, now time.Time) {
	l.member.latency.Unanswered(took, now)
	if s := l.shade(); s != nil {
		s.latency.Unanswered(took, now)
	}
}

// pickShadow is pick for the shadow policy.
func (s *Snapshot) pickShadow(key Key, dice *balance.Dice) int {
	t := s.zone(key, dice)
	if i := s.shadows[t].pick(key, nil); i >= 0 {
		return i
	}
	return s.shadows[t^elsewhere].pick(key, nil)
}

// shadowChanged is changed for the shadow policy.
func (s *Snapshot) shadowChanged(i int) {
	if at := s.at[i]; at != nowhere && s.shadows != nil {
		s.shadows[at.tier].picker.Changed(int(at.index))
	}
}

// buildShadow sets the shadow policy's picker of tier t of s. It is built over the same members as that of the policy in force, with the
// Shadow's loads and latencies.
func (v *View) buildShadow(s, old *Snapshot, t int) {
	if s.shadows == nil {
		s.shadows = make([]tier, len(s.tiers))
	}
	s.shadows[t].members = s.tiers[t].members
	if old != nil && s.tiers[t].like(&old.tiers[t]) {
		s.shadows[t].setPicker(old.shadows[t].picker)
		return
	}
	members, before := v.candidates(s, old, t)
	for k, i := range s.tiers[t].members {
		members[k].Load, members[k].Latency = &v.shades[i].load, &v.shades[i].latency
	}
	var prev balance.Picker
	if old != nil {
		prev = old.shadows[t].picker
	}
	s.shadows[t].setPicker(v.shadowPolicy.Build(members, prev, before))
}

// shadowFor returns the Shadow with that policy, a new one if there is none. The caller holds p.mu.
func (p *Pool) shadowFor(policy balance.Policy) *Shadow {
	for _, s := range p.shadows {
		if s.policy == policy {
			return s
		}
	}
	// A Shadow that no view uses is kept for the next view with its policy, as members are, but only until a view has another policy.
	p.shadows = slices.DeleteFunc(p.shadows, func(s *Shadow) bool {
		if s.refs > 0 {
			return false
		}
		for _, m := range p.members {
			m.dropShade(s)
		}
		return true
	})
	s := &Shadow{pool: p, policy: policy, dice: p.registry.shadowDice, ends: shadow.NewEnds[supposed](maxSupposed)}
	s.ended = func(r supposed) { r.at.end(r.ticket, true, true, p.now()) }
	p.shadows = append(p.shadows, s)
	return s
}

// holdShadow makes v hold its Shadow, and the members their shades. The caller holds p.mu.
func (p *Pool) holdShadow(v *View) {
	if v.shadow == nil {
		return
	}
	v.shadow.refs++
	if !slices.Contains(p.shadows, v.shadow) {
		p.shadows = append(p.shadows, v.shadow)
	}
	for i, m := range v.members {
		if v.shades[i] == nil {
			v.shades[i] = m.shadeOf(v.shadow)
		}
		if v.shades[i] == nil {
			v.shades[i] = &shade{of: v.shadow, member: m}
		}
		m.dropShade(v.shadow)
		m.shades.Store(&shades{v.shades[i], m.shades.Load()})
	}
}

// shades is an immutable list of a member's shades, one per Shadow. It nearly always has at most one.
type shades struct {
	first *shade
	next  *shades
}

func (l *shades) all(yield func(*shade) bool) {
	for ; l != nil && yield(l.first); l = l.next {
	}
}

func (l *shades) without(s *Shadow) *shades {
	switch {
	case l == nil:
		return nil
	case l.first.of == s:
		return l.next
	default:
		return &shades{l.first, l.next.without(s)}
	}
}

// shadeOf returns m's shade of that Shadow; nil if there is none.
func (m *Member) shadeOf(s *Shadow) *shade {
	for sh := range m.shades.Load().all {
		if sh.of == s {
			return sh
		}
	}
	return nil
}

// dropShade is called with Pool.mu held.
func (m *Member) dropShade(s *Shadow) {
	if l := m.shades.Load(); l != nil {
		m.shades.Store(l.without(s))
	}
}

// forgetShades resets what Shadows have recorded of m's answers, because m has been away.
func (m *Member) forgetShades() {
	for s := range m.shades.Load().all {
		s.latency.Forget()
		s.samples.Forget()
	}
}

// leaveShades saves the counts of a member that the pool deletes and that has no counters of its own. The caller holds p.mu.
func (m *Member) leaveShades() {
	if m.Named() {
		return
	}
	for s := range m.shades.Load().all {
		s.of.forgotten.add(s.share())
	}
}
