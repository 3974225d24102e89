package overlay

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Overlay holds the edits of a pool's backends. The zero Overlay has none.
type Overlay struct {
	Version  uint64           `json:"version"` // increases with every change
	Backends map[string]Entry `json:"backends,omitempty"`
}

// Entry holds the edits of the backend with one address.
type Entry struct {
	Revision uint64 `json:"revision"`          // version of the overlay that last changed the entry
	Name     string `json:"name,omitempty"`    // of an added backend, if it has one of its own
	Added    *Mark  `json:"added,omitempty"`   // nil unless the backend was added
	Removed  *Mark  `json:"removed,omitempty"` // nil unless it was removed
	Edits    []Edit `json:"edits,omitempty"`   // of settings; later ones win
}

// Mark says who made a change, when and why.
type Mark struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // when the change expires; zero for never
	Owner  string    `json:"owner,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Edit is an edited setting.
type Edit struct {
	Field Field `json:"field"`
	Value any   `json:"value"` // int, bool or string
	Mark
}

// over reports whether the change has expired.
func (m *Mark) over(now time.Time) bool { return !m.Until.IsZero() && !now.Before(m.Until) }

// next returns a copy of o with another version, whose entries may be replaced.
func (o *Overlay) next() *Overlay {
	n := &Overlay{Version: o.Version + 1, Backends: maps.Clone(o.Backends)}
	if n.Backends == nil {
		n.Backends = make(map[string]Entry)
	}
	return n
}

// with returns a copy of o with this entry for the backend with this address.
func (o *Overlay) with(address string, e Entry) *Overlay {
	n := o.next()
	e.Revision = n.Version
	if e.Added == nil && e.Removed == nil && len(e.Edits) == 0 {
		delete(n.Backends, address)
	} else {
		n.Backends[address] = e
	}
	return n
}

// Add adds a backend, or restores a removed one. It is removed again at mark.Until, if set.
func (o *Overlay) Add(address, name string, edits []Edit, mark Mark) *Overlay {
	return o.with(address, Entry{Name: name, Added: &mark, Edits: slices.Clone(edits)})
}

// Restore undoes the removal of a backend of the config, and edits it.
func (o *Overlay) Restore(address string, edits []Edit) *Overlay {
	return o.with(address, Entry{Edits: slices.Clone(edits)})
}

// Edit edits settings of a backend and undoes the edits of others. A permanent edit replaces all edits of its field, a timed one only
// timed edits: the permanent edit below is in force again afterwards.
func (o *Overlay) Edit(address string, edits []Edit, takeBack []Field) *Overlay {
	e := o.Backends[address]
	kept := slices.DeleteFunc(slices.Clone(e.Edits), func(old Edit) bool {
		return slices.Contains(takeBack, old.Field) || slices.ContainsFunc(edits, func(edit Edit) bool {
			return edit.Field == old.Field && (edit.Until.IsZero() || !old.Until.IsZero())
		})
	})
	e.Edits = slices.Concat(kept, edits)
	return o.with(address, e)
}

// Remove removes a backend. Its edits are dropped.
func (o *Overlay) Remove(address string, mark Mark) *Overlay {
	e := o.Backends[address]
	return o.with(address, Entry{Name: e.Name, Added: e.Added, Removed: &mark})
}

// Forget drops the entry of a backend.
func (o *Overlay) Forget(address string) *Overlay { return o.with(address, Entry{}) }

// Expired is an edit, or an added backend, that has expired.
type Expired struct {
	Address string
	Edit    *Edit // nil if the backend itself expired
}

// Expire undoes expired edits and additions.
func (o *Overlay) Expire(now time.Time) (next *Overlay, expired []Expired) {
	next = o
	for _, address := range o.addresses() {
		e := o.Backends[address]
		if e.Added != nil && e.Removed == nil && e.Added.over(now) {
			// Not the current time: several nodes do this, and must agree.
			next = next.Remove(address, Mark{Since: e.Added.Until, Owner: e.Added.Owner, Reason: "its time is over"})
			expired = append(expired, Expired{Address: address})
			continue
		}
		var left []Edit
		for _, edit := range e.Edits {
			if edit.over(now) {
				expired = append(expired, Expired{Address: address, Edit: &edit})
			} else {
				left = append(left, edit)
			}
		}
		if len(left) < len(e.Edits) {
			e.Edits = left
			next = next.with(address, e)
		}
	}
	return next, expired
}

// Permanent returns o without its timed changes.
func (o *Overlay) Permanent() *Overlay {
	n := o.next()
	for address, e := range o.Backends {
		if e.Added != nil && !e.Added.Until.IsZero() {
			delete(n.Backends, address)
			continue
		}
		e.Edits = slices.DeleteFunc(slices.Clone(e.Edits), func(edit Edit) bool { return !edit.Until.IsZero() })
		n.Backends[address] = e
	}
	return n
}

// Due returns when the next change expires; zero if none does.
func (o *Overlay) Due() (due time.Time) {
	soonest := func(m *Mark) {
		if !m.Until.IsZero() && (due.IsZero() || m.Until.Before(due)) {
			due = m.Until
		}
	}
	for _, e := range o.Backends {
		if e.Added != nil && e.Removed == nil {
			soonest(e.Added)
		}
		for i := range e.Edits {
			soonest(&e.Edits[i].Mark)
		}
	}
	return due
}

// addresses returns the addresses of the entries, sorted, so that all nodes process them in the same order.
func (o *Overlay) addresses() []string {
	return slices.SortedFunc(maps.Keys(o.Backends), strings.Compare)
}

// Equal reports whether both have the same changes, whatever their versions.
func (o *Overlay) Equal(other *Overlay) bool {
	return maps.EqualFunc(o.Backends, other.Backends, func(a, b Entry) bool { return a.equal(&b) })
}

// equal reports whether both have the same changes.
func (e *Entry) equal(other *Entry) bool {
	a, b := *e, *other
	a.Revision, b.Revision = 0, 0
	return reflect.DeepEqual(a, b)
}
