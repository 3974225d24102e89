// Package fleet shares the state of the nodes that use the same storage: each node keeps a document there that describes its pools, and
// reads those of the others. No part of it is needed to serve requests.
package fleet

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	format = "ballast node"
	schema = 1

	// listAll is the size up to which all backends of a pool are listed. In a larger pool, only those that are not fine are.
	listAll = 200
	// mostListed is the largest number of backends that a node lists.
	mostListed = 1000
	// mostText is the longest reason or error.
	mostText = 160
)

// document is the stored form.
type document struct {
	Format string `json:"format"`
	Schema int    `json:"schema"`
	*Node
}

// Node describes a node.
type Node struct {
	ID      string    `json:"id"`      // the same after a restart
	Boot    string    `json:"boot"`    // of this process
	Beat    uint64    `json:"beat"`    // number of the document that the process has written; clocks of nodes differ
	Period  float64   `json:"period"`  // seconds between two reads; the node writes at every third at least
	Name    string    `json:"name"`    // host name
	Admin   string    `json:"admin"`   // address of the admin endpoint; "" while it is not known
	Version string    `json:"version"` // of the load balancer and of Caddy
	Started time.Time `json:"started"` // by the node's clock, as is Written
	Written time.Time `json:"written"`
	Config  string    `json:"config"` // digest of the pools' settings, without those that differ between nodes
	Alone   bool      `json:"alone"`  // it knows no other node, and does not describe its pools
	Pools   []Pool    `json:"pools"`
}

// Pool is a pool as a node sees it.
type Pool struct {
	Name     string    `json:"name"`
	State    string    `json:"state"` // ok, degraded, panic or down
	Usable   int       `json:"usable"`
	Total    int       `json:"total"`    // backends in use
	Subset   bool      `json:"subset"`   // it uses only some of the backends
	Members  string    `json:"members"`  // digest of the addresses of all backends
	Edits    string    `json:"edits"`    // digest of the edits
	Version  uint64    `json:"version"`  // of the edits
	Requests float64   `json:"requests"` // per second, recently
	Failures float64   `json:"failures"` // per second, recently
	InFlight int64     `json:"in_flight"`
	Fine     int       `json:"fine"`     // number of backends that are not listed because they are fine
	LeftOut  int       `json:"left_out"` // number of backends that are not listed although they are not fine
	Backends []Backend `json:"backends"`
}

// Backend is a backend as a node sees it.
type Backend struct {
	Name      string  `json:"name"`
	Address   string  `json:"address"`
	State     string  `json:"state"` // ready, drain or maintenance
	Usable    bool    `json:"usable"`
	Reason    string  `json:"reason,omitempty"` // why it is not usable
	Health    string  `json:"health"`           // up, down or unknown
	Error     string  `json:"error,omitempty"`  // of the last check
	Breaker   string  `json:"breaker"`          // closed, open or half_open
	Weight    int     `json:"weight"`
	Edited    bool    `json:"edited,omitempty"`
	Ejections uint64  `json:"ejections,omitempty"`
	InFlight  int64   `json:"in_flight"`
	Requests  float64 `json:"requests"` // per second, recently
	Failures  float64 `json:"failures"` // per second, recently
	P50       float64 `json:"p50,omitempty"`
	P99       float64 `json:"p99,omitempty"`
}

// fine reports whether b need not be listed.
func (b *Backend) fine() bool {
	return b.Usable && b.Breaker == "closed" && b.State == "ready" && b.Health != "down" && !b.Edited
}

// shorten limits the lists of n.
func (n *Node) shorten() {
	left := mostListed
	for i := range n.Pools {
		p := &n.Pools[i]
		all := p.Backends
		if len(all) > listAll {
			p.Backends = make([]Backend, 0, listAll)
			for j := range all {
				if !all[j].fine() {
					p.Backends = append(p.Backends, all[j])
				}
			}
			p.Fine = len(all) - len(p.Backends)
		}
		if over := len(p.Backends) - left; over > 0 {
			p.Backends = p.Backends[:left]
			p.LeftOut = over
		}
		left -= len(p.Backends)
		for j := range p.Backends {
			b := &p.Backends[j]
			b.Reason, b.Error = cut(b.Reason), cut(b.Error)
		}
	}
}

// cut limits the length of a text.
func cut(text string) string {
	if len(text) <= mostText {
		return text
	}
	return strings.ToValidUTF8(text[:mostText], "") + "..."
}

// steady returns a digest of everything whose changes must be published at once: all but the numbers that change with every request.
func (n *Node) steady() [sha256.Size]byte {
	o := *n
	o.Beat, o.Written = 0, time.Time{}
	o.Pools = make([]Pool, len(n.Pools))
	for i, p := range n.Pools {
		p.Requests, p.Failures, p.InFlight = 0, 0, 0
		p.Backends = make([]Backend, len(p.Backends))
		for j, b := range n.Pools[i].Backends {
			b.InFlight, b.Requests, b.Failures, b.P50, b.P99, b.Ejections = 0, 0, 0, 0, 0, 0
			p.Backends[j] = b
		}
		o.Pools[i] = p
	}
	text, _ := json.Marshal(&o) // plain values can be marshaled
	return sha256.Sum256(text)
}

// encode returns a node's document.
func encode(n *Node) ([]byte, error) { return json.Marshal(document{format, schema, n}) }

// decode parses a node's document.
func decode(raw []byte) (*Node, error) {
	d := document{Node: new(Node)}
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	switch {
	case d.Format != format || d.Schema < schema || d.Node == nil || d.ID == "":
		return nil, errors.New("not a document of a node")
	case d.Schema > schema:
		return nil, fmt.Errorf("schema %d is of a later version", d.Schema)
	}
	return d.Node, nil
}
