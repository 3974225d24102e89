package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
)

// Subset makes a balancer of a fleet use only some of the pool's backends: it checks, and connects to, no others. Primary backends, each
// level of backups and, with `prefer_zone`, the backends in that zone and the others have a subset each.
type Subset struct {
	// The number of backends, of each kind, that this balancer uses. With `peers` it is approximate. Required.
	Size int `json:"size,omitempty"`

	// The number of this balancer among its peers, from 0. A number, or a text with placeholders that are replaced when the config is
	// loaded. Default: the backends follow from the identity of this instance of Caddy.
	Peer *Number `json:"peer,omitempty"`

	// The number of balancers of the fleet, all of which have the same backends. Like `peer`, it may have placeholders.
	Peers *Number `json:"peers,omitempty"`
}

// Number is a whole number that may be given by placeholders, such as `{env.ORDINAL}`. In JSON it is a number or a string.
type Number struct{ text string }

// NewNumber returns the number that a text stands for: digits, or placeholders.
func NewNumber(text string) (*Number, error) {
	n := &Number{text}
	if _, literal := n.literal(); !literal && !strings.Contains(text, "{") {
		return nil, errors.New("must be a whole number, or a placeholder such as {env.ORDINAL}")
	}
	return n, nil
}

// literal returns the number if it is given without placeholders.
func (n *Number) literal() (value int, ok bool) {
	value, err := strconv.Atoi(n.text)
	return value, err == nil
}

// resolve returns the number with placeholders replaced, and its text for messages.
func (n *Number) resolve() (value int, text string, err error) {
	replaced := strings.TrimSpace(caddy.NewReplacer().ReplaceKnown(n.text, ""))
	text = n.text
	if replaced != text {
		text = fmt.Sprintf("%s, which is %q", n.text, replaced)
	}
	value, err = strconv.Atoi(replaced)
	return value, text, err
}

// MarshalJSON writes a number or, with placeholders, a string.
func (n Number) MarshalJSON() ([]byte, error) {
	if value, literal := n.literal(); literal {
		return json.Marshal(value)
	}
	return json.Marshal(n.text)
}

// UnmarshalJSON reads a number or a string.
func (n *Number) UnmarshalJSON(text []byte) error {
	given := string(text)
	if len(text) > 0 && text[0] == '"' {
		if err := json.Unmarshal(text, &given); err != nil {
			return err
		}
	}
	read, err := NewNumber(given)
	if err != nil {
		return err
	}
	*n = *read
	return nil
}

// check checks what is known before placeholders are replaced.
func (s *Subset) check() error {
	if s == nil {
		return nil
	}
	if err := InRange("subset.size", s.Size); err != nil {
		return err
	}
	switch {
	case s.Peer == nil && s.Peers == nil:
		return nil
	case s.Peers == nil:
		return fmt.Errorf("subset: peers: missing; peer %s needs the number of all balancers", s.Peer.text)
	case s.Peer == nil:
		return fmt.Errorf("subset: peer: missing; it is the number of this balancer among %s, from 0", s.Peers.text)
	}
	peer, peerGiven := s.Peer.literal()
	peers, peersGiven := s.Peers.literal()
	if peersGiven {
		if err := InRange("subset.peers", peers); err != nil {
			return err
		}
	}
	if !peerGiven {
		return nil
	}
	if err := InRange("subset.peer", peer); err != nil {
		return err
	}
	if peersGiven {
		return checkPeer(strconv.Itoa(peer), peer, peers)
	}
	return nil
}

// checkPeer checks that the balancer with that number exists. text is the number as configured, for messages.
func checkPeer(text string, peer, peers int) error {
	if peer >= peers {
		return fmt.Errorf("subset: peer %s: must be from 0 to %d: the numbers of %d balancers begin at 0", text, peers-1, peers)
	}
	return nil
}

// Fleet returns the number of this balancer and the number of balancers, with placeholders replaced. known is false if they are not set.
func (s *Subset) Fleet() (peer, peers int, known bool, err error) {
	if s.Peers == nil {
		return 0, 0, false, nil
	}
	var text string
	for _, n := range []struct {
		number  *Number
		setting string
		value   *int
	}{{s.Peers, "peers", &peers}, {s.Peer, "peer", &peer}} {
		r := Ranges.Of("subset." + n.setting)
		*n.value, text, err = n.number.resolve()
		if err != nil {
			return 0, 0, true, fmt.Errorf("subset: %s %s: must be a whole number %s", n.setting, text, r)
		}
		if r.Check(float64(*n.value)) != nil {
			return 0, 0, true, fmt.Errorf("subset: %s %s: must be %s", n.setting, text, r)
		}
	}
	return peer, peers, true, checkPeer(text, peer, peers)
}

// CheckSubset checks that all backends are known before requests come. canPoll says whether a dynamic source can be polled.
func (s *Settings) CheckSubset(source json.RawMessage, canPoll func(json.RawMessage) bool) error {
	if s.Subset == nil || source == nil || canPoll(source) {
		return nil
	}
	return caddyapp.About(errors.New("subset: the dynamic source is asked for each request, so its backends are not known in advance; "+
		"a subset needs a source that is polled"), "subset", "dynamic")
}
