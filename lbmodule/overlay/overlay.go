package overlay

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Overlay is what was changed about the backends of a pool. The zero Overlay changes nothing.
type Overlay struct {
	Version  uint64           `json:"version"` // rises with every change
	Backends map[string]Entry `json:"backends,omitempty"`
}

// Entry is what was changed about the backend of one address.
type Entry struct {
	Revision uint64 `json:"revision"`          // version of the overlay that changed it last
	Name     string `json:"name,omitempty"`    // of an added backend, if it has one of its own
	Added    *Mark  `json:"added,omitempty"`   // nil unless the backend was added
	Removed  *Mark  `json:"removed,omitempty"` // nil unless it was removed
	Edits    []Edit `json:"edits,omitempty"`   // of settings; later ones lie on top
}

// Mark says who did something, when and why.
type Mark struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // when it undoes itself; zero for never
	Owner  string    `json:"owner,omitempty"`
	Reason string    `json:"reason,omitempty"`
}

// Edit is a setting that was changed.
type Edit struct {
	Field Field `json:"field"`
	Value any   `json:"value"` // int, bool or string
	Mark
}

// over tells whether the time of what was marked has come.
func (m *Mark) over(now time.Time) bool { return !m.Until.IsZero() && !now.Before(m.Until) }

// next returns a copy of o with another version, whose entries may be replaced.
func (o *Overlay) next() *Overlay {
	n := &Overlay{Version: o.Version + 1, Backends: maps.Clone(o.Backends)}
	if n.Backends == nil {
		n.Backends = make(map[string]Entry)
	}
	return n
}

// with returns a copy of o in which the backend of that address has this entry.
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

// Add adds a backend, or brings one back that was removed. With mark.Until it is removed again at that time.
func (o *Overlay) Add(address, name string, edits []Edit, mark Mark) *Overlay {
	return o.with(address, Entry{Name: name, Added: &mark, Edits: slices.Clone(edits)})
}

// Restore takes back the removal of a backend of the config, and edits it.
func (o *Overlay) Restore(address string, edits []Edit) *Overlay {
	return o.with(address, Entry{Edits: slices.Clone(edits)})
}

// Edit changes settings of a backend and takes edits of others back. A permanent edit ends all edits of its field before it, a
// timed one the timed ones: what is below it comes back.
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

// Remove removes a backend. What was edited about it is forgotten.
func (o *Overlay) Remove(address string, mark Mark) *Overlay {
	e := o.Backends[address]
	return o.with(address, Entry{Name: e.Name, Added: e.Added, Removed: &mark})
}

// Forget drops all that is known about a backend.
func (o *Overlay) Forget(address string) *Overlay { return o.with(address, Entry{}) }

// Expired is an edit, or a backend that was added, whose time is over.
type Expired struct {
	Address string
	Edit    *Edit // nil if it is the backend
}

// Expire takes back what is over.
func (o *Overlay) Expire(now time.Time) (next *Overlay, expired []Expired) {
	next = o
	for _, address := range o.addresses() {
		e := o.Backends[address]
		if e.Added != nil && e.Removed == nil && e.Added.over(now) {
			// Not now: several nodes do this, and are to agree.
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

// Permanent returns what is left of o when all that is timed is over.
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

// Due is when the next edit is over; zero if none ever is.
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

// addresses returns the addresses of the entries, sorted: what is done for each is to be done in the same order everywhere.
func (o *Overlay) addresses() []string {
	return slices.SortedFunc(maps.Keys(o.Backends), strings.Compare)
}

// Equal tells whether both change the same, whatever their versions.
func (o *Overlay) Equal(other *Overlay) bool {
	return maps.EqualFunc(o.Backends, other.Backends, func(a, b Entry) bool { return a.equal(&b) })
}

// equal tells whether both change the same.
func (e *Entry) equal(other *Entry) bool {
	a, b := *e, *other
	a.Revision, b.Revision = 0, 0
	return reflect.DeepEqual(a, b)
}
