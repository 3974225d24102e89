package overlay

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// Running is a backend with the edits in force.
type Running struct {
	Backend
	Config   *Backend // the config's values; nil if the config does not have the backend
	Revision uint64   // of the latest edit; 0 if there is none
	Edits    []Edit   // in force, in the order of Fields
	Added    *Mark    // nil unless it was added
	Removed  *Mark    // nil unless it was removed and still drains
}

// defaults are the default settings of a backend.
var defaults = Settings{Weight: 1, State: Ready}

// Merge returns the config's backends with the edits applied, in their order, followed by the added ones in theirs. Removed backends are
// left out once they are gone.
func (o *Overlay) Merge(config []Backend, gone map[string]bool, now time.Time) []Running {
	all := make([]Running, 0, len(config))
	for i := range config {
		r := Running{Backend: config[i], Config: &config[i]}
		if e, edited := o.Backends[r.Address]; edited {
			if e.Removed != nil && gone[r.Address] {
				continue
			}
			r.take(&e, now)
		}
		all = append(all, r)
	}
	if len(o.Backends) == 0 {
		return all
	}
	known := make(map[string]bool, len(config))
	for i := range config {
		known[config[i].Address] = true
	}
	named := make(map[string]bool, len(all))
	for i := range all {
		named[all[i].Name] = true
	}
	var added []Running
	for address, e := range o.Backends {
		if e.Added == nil || known[address] || e.Removed != nil && gone[address] {
			continue
		}
		r := Running{Backend: Backend{Address: address, Name: e.Name, Settings: defaults}}
		r.take(&e, now)
		added = append(added, r)
	}
	slices.SortFunc(added, func(a, b Running) int {
		if c := a.Added.Since.Compare(b.Added.Since); c != 0 {
			return c
		}
		return strings.Compare(a.Address, b.Address)
	})
	for i := range added {
		added[i].Name = free(named, added[i].Name, added[i].Address)
	}
	return append(all, added...)
}

// free returns the name or, if that is taken, a free variant of the address, and takes it. The config may have come to use either for
// another backend.
func free(taken map[string]bool, name, address string) string {
	if name == "" || taken[name] {
		name = address
	}
	for n := 2; taken[name]; n++ { // bound: one of len(taken)+1 names is free
		name = address + "~" + strconv.Itoa(n)
	}
	taken[name] = true
	return name
}

// take applies the edits of r.
func (r *Running) take(e *Entry, now time.Time) {
	r.Revision, r.Added, r.Removed = e.Revision, e.Added, e.Removed
	for _, f := range Fields {
		// The last edit that has not expired wins.
		for i := len(e.Edits) - 1; i >= 0; i-- {
			if edit := e.Edits[i]; edit.Field == f && !edit.over(now) {
				_ = r.Set(f, edit.Value) // the value was checked before
				r.Edits = append(r.Edits, edit)
				break
			}
		}
	}
	if r.Removed != nil {
		r.State = Drain
	}
}

// DrainingSince returns when the backend began to drain; zero if it does not.
func (r *Running) DrainingSince() time.Time {
	if r.Removed != nil {
		return r.Removed.Since
	}
	for _, edit := range r.Edits {
		if edit.Field == StateField && r.State == Drain {
			return edit.Since
		}
	}
	return time.Time{}
}

// Difference is a setting that differs from the config, or a backend that was added or removed.
type Difference struct {
	Backend string    `json:"backend"`
	Field   Field     `json:"field,omitempty"`
	Config  any       `json:"config,omitempty"`
	Running any       `json:"running,omitempty"`
	Added   bool      `json:"added,omitempty"`
	Removed bool      `json:"removed,omitempty"`
	Until   time.Time `json:"until,omitzero"`
	Owner   string    `json:"owner,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// Diff lists the differences between these backends and their config.
func Diff(running []Running) []Difference {
	all := []Difference{}
	for _, r := range running {
		about := func(m *Mark) Difference {
			return Difference{Backend: r.Name, Until: m.Until, Owner: m.Owner, Reason: m.Reason}
		}
		switch {
		case r.Removed != nil:
			d := about(r.Removed)
			d.Removed = true
			all = append(all, d)
			continue
		case r.Config == nil:
			d := about(r.Added)
			d.Added = true
			all = append(all, d)
		}
		base := &defaults
		if r.Config != nil {
			base = &r.Config.Settings
		}
		for _, edit := range r.Edits {
			if was := base.Get(edit.Field); was != r.Get(edit.Field) {
				d := about(&edit.Mark)
				d.Field, d.Running = edit.Field, r.Get(edit.Field)
				if r.Config != nil {
					d.Config = was
				}
				all = append(all, d)
			}
		}
	}
	return all
}

// Conflict is a backend that two nodes edited at the same time.
type Conflict struct{ Address string }

// Rebase merges mine and theirs, which were both made from base. If only one of them changed a backend, its change is taken; if both did,
// mine wins, because it is written last, and the conflict is reported. The result is newer than theirs, or is theirs if mine adds
// nothing.
func Rebase(base, mine, theirs *Overlay) (*Overlay, []Conflict) {
	if mine.Equal(theirs) {
		return theirs, nil
	}
	if theirs.Version == base.Version && theirs.Equal(base) {
		return mine, nil
	}
	n := theirs.next()
	n.Version = max(theirs.Version, mine.Version) + 1
	var conflicts []Conflict
	changed := false
	for _, address := range union(mine, theirs) {
		was, here := base.Backends[address]
		own, hasOwn := mine.Backends[address]
		other, hasOther := theirs.Backends[address]
		untouched := here == hasOwn && was.equal(&own)
		same := hasOwn == hasOther && own.equal(&other)
		if untouched || same {
			continue
		}
		if here != hasOther || !was.equal(&other) {
			conflicts = append(conflicts, Conflict{address})
		}
		changed = true
		if hasOwn {
			n.Backends[address] = own
		} else {
			delete(n.Backends, address)
		}
	}
	if !changed {
		return theirs, nil
	}
	return n, conflicts
}

func union(a, b *Overlay) []string {
	all := append(a.addresses(), b.addresses()...)
	slices.Sort(all)
	return slices.Compact(all)
}
