package fleet

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Kinds of differences.
const (
	DiffersVersion = "version" // of the load balancer or of Caddy
	DiffersConfig  = "config"  // the settings of the pools
	DiffersPool    = "pool"    // some nodes have the pool, others do not
	DiffersMembers = "members" // which backends the pool has
	DiffersEdits   = "edits"   // what was edited
	DiffersUsable  = "usable"  // whether a backend is usable
	DiffersBreaker = "breaker" // the state of a backend's breaker
	DiffersState   = "state"   // whether it is ready, drained or in maintenance
	DiffersWeight  = "weight"
)

// mostDifferences bounds how many differences are listed.
const mostDifferences = 200

// Difference is a value in which nodes differ.
type Difference struct {
	Kind    string  `json:"kind"`
	Pool    string  `json:"pool,omitempty"`
	Backend string  `json:"backend,omitempty"` // its name
	Values  []Value `json:"values"`            // most frequent first
}

// Value is one of the values, with its nodes.
type Value struct {
	Value string   `json:"value"`
	Nodes []string `json:"nodes"` // labels
}

// answers are the values of one property, each with its nodes.
type answers map[string][]string

func (a answers) add(value, node string) { a[value] = append(a[value], node) }

// differences collects differences, up to a maximum.
type differences struct {
	all  []Difference
	more int
}

func (d *differences) add(kind, pool, backend string, a answers) {
	if len(a) < 2 {
		return
	}
	if len(d.all) == mostDifferences {
		d.more++
		return
	}
	o := Difference{Kind: kind, Pool: pool, Backend: backend}
	for value, nodes := range a {
		o.Values = append(o.Values, Value{value, nodes})
	}
	slices.SortFunc(o.Values, func(a, b Value) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), strings.Compare(a.Value, b.Value))
	})
	d.all = append(d.all, o)
}

// compare lists the differences between the nodes that are alive, and how many there are beyond the maximum. A node that knows no other
// node has not described its pools yet.
func compare(nodes []Seen) ([]Difference, int) {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n Seen) bool { return n.State != Alive || n.Node == nil })
	d := &differences{all: []Difference{}}
	versions, configs := answers{}, answers{}
	for _, n := range nodes {
		versions.add(n.Version, n.Label)
		configs.add(n.Config, n.Label)
	}
	d.add(DiffersVersion, "", "", versions)
	d.add(DiffersConfig, "", "", configs)
	nodes = slices.DeleteFunc(nodes, func(n Seen) bool { return n.Alone })
	pools := make(map[string][]view)
	for _, n := range nodes {
		for i := range n.Pools {
			pools[n.Pools[i].Name] = append(pools[n.Pools[i].Name], newView(n.Label, &n.Pools[i]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if len(pools[name]) < len(nodes) {
			has := answers{}
			for _, n := range nodes {
				value := "not there"
				if slices.ContainsFunc(n.Pools, func(p Pool) bool { return p.Name == name }) {
					value = "there"
				}
				has.add(value, n.Label)
			}
			d.add(DiffersPool, name, "", has)
		}
		d.pool(name, pools[name])
	}
	return d.all, d.more
}

// view is a pool as one node sees it.
type view struct {
	label string
	*Pool
	at map[string]*Backend // by address
}

func newView(label string, p *Pool) view {
	v := view{label: label, Pool: p, at: make(map[string]*Backend, len(p.Backends))}
	for i := range p.Backends {
		v.at[p.Backends[i].Address] = &p.Backends[i]
	}
	return v
}

// pool adds the differences in a pool.
func (d *differences) pool(name string, views []view) {
	members, edits := answers{}, answers{}
	names := make(map[string]string)
	for _, v := range views {
		members.add(v.Members, v.label)
		edits.add(v.Edits, v.label)
		for _, b := range v.Backends {
			names[b.Address] = b.Name
		}
	}
	d.add(DiffersEdits, name, "", edits)
	d.add(DiffersMembers, name, "", members)
	for _, address := range slices.Sorted(maps.Keys(names)) {
		d.backend(name, names[address], address, views)
	}
}

// backend adds the differences in a backend. If a node lists only backends that are not fine, and not this one, the backend is fine for
// that node, provided that it has the same backends as a node that lists it.
func (d *differences) backend(pool, name, address string, views []view) {
	usable, breakers, states, weights := answers{}, answers{}, answers{}, answers{}
	some, all := false, true
	note := func(is bool) { some, all = some || is, all && is }
	var members string
	for _, v := range views {
		if v.at[address] != nil {
			members = v.Members
		}
	}
	for _, v := range views {
		b := v.at[address]
		if b == nil {
			if v.Fine > 0 && v.LeftOut == 0 && !v.Subset && v.Members == members {
				usable.add("usable", v.label)
				breakers.add("closed", v.label)
				states.add("ready", v.label)
				note(true)
			}
			continue
		}
		note(b.Usable)
		if b.Usable {
			usable.add("usable", v.label)
		} else {
			usable.add(b.Reason, v.label)
		}
		breakers.add(b.Breaker, v.label)
		states.add(b.State, v.label)
		weights.add(strconv.Itoa(b.Weight), v.label)
	}
	if some && !all {
		d.add(DiffersUsable, pool, name, usable)
	} else {
		d.add(DiffersBreaker, pool, name, breakers) // otherwise the reason includes the breaker
	}
	d.add(DiffersState, pool, name, states)
	d.add(DiffersWeight, pool, name, weights)
}
