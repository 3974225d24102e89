package discovery

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// The labels with a meaning for backends. Prometheus lets its users choose label names, so all others are ignored.
var labels = []string{"weight", "max_requests", "backup", "zone", "name"}

func understood(label string) bool { return slices.Contains(labels, label) }

var (
	weights     = config.Ranges.Of("backends.weight")
	maxRequests = config.Ranges.Of("backends.max_requests")
)

// builder builds a list from groups.
type builder struct {
	backends  []config.Backend
	lines     []int          // line of the group of each backend
	byAddress map[string]int // index in backends
	byName    map[string]int
	targets   int
}

// add adds the targets of a group.
func (b *builder) add(g *group) error {
	if b.byAddress == nil {
		b.byAddress, b.byName = make(map[string]int), make(map[string]int)
	}
	made, err := g.properties()
	if err != nil {
		return err
	}
	// This counts targets, not backends: YAML aliases let a few bytes stand for many groups.
	if b.targets += len(g.targets); b.targets > config.MaxBackends {
		return wrongAt(g.line, "more than %d targets: must be at most that many", config.MaxBackends)
	}
	for _, target := range g.targets {
		made.Address = target
		if err := checkTarget(target); err != nil {
			return wrongAt(g.line, "target %.128q: %v", target, err)
		}
		if at, twice := b.byAddress[target]; twice {
			if !Same(&b.backends[at], &made) {
				return wrongAt(g.line, "target %s: given before, on line %d, with other labels; must have one weight, zone, backup, max_requests and name",
					target, b.lines[at])
			}
			continue
		}
		if made.Name != "" {
			if at, taken := b.byName[made.Name]; taken {
				return wrongAt(g.line, "target %s: label name %q: must be unique, and is that of %s, on line %d",
					target, made.Name, b.backends[at].Address, b.lines[at])
			}
			b.byName[made.Name] = len(b.backends)
		}
		b.byAddress[target] = len(b.backends)
		b.backends, b.lines = append(b.backends, made), append(b.lines, g.line)
	}
	return nil
}

// list returns the list of all groups.
func (b *builder) list() (*List, error) {
	if len(b.backends) == 0 {
		return nil, wrong("names no target: must name one at least")
	}
	for name, at := range b.byName {
		if owner, is := b.byAddress[name]; is && owner != at {
			return nil, wrongAt(b.lines[at], "target %s: label name %q: must not be the address of another target", b.backends[at].Address, name)
		}
	}
	return &List{slices.Clip(b.backends)}, nil
}

// checkTarget checks that a target is a host and a port. Placeholders, sockets and networks are not accepted: the author of a list may
// choose the addresses of backends and nothing else.
func checkTarget(target string) error {
	switch {
	case target == "":
		return fmt.Errorf("must be a host and a port, and is empty")
	case strings.ContainsAny(target, "{}/"):
		return fmt.Errorf("must be a host and a port, without a scheme, a path or placeholders")
	case strings.HasPrefix(target, ":"):
		return fmt.Errorf("must have a host")
	case len(target) > maxTarget:
		return fmt.Errorf("must have at most %d bytes", maxTarget)
	}
	return config.ValidateAddress(target)
}

// maxTarget is the longest target: a host name of DNS, and a port.
const maxTarget = 253 + len(":65535")

// properties returns the settings in the labels. A label without a value counts as left out, as in Prometheus.
func (g *group) properties() (b config.Backend, err error) {
	bad := func(label, rule string) error {
		first := "(none)"
		if len(g.targets) > 0 {
			first = g.targets[0]
		}
		return wrongAt(g.line, "target %.128s: label %s %.128q: %s", first, label, g.labels[label], rule)
	}
	for _, label := range labels {
		value := g.labels[label]
		if value == "" {
			continue
		}
		switch label {
		case "weight":
			n, ok := number(value, weights.Check)
			if !ok {
				return b, bad(label, "must be a whole number "+weights.String())
			}
			b.Weight = &n
		case "max_requests":
			n, err := config.ParseMaxRequests(value)
			if err != nil || n.Check("") != nil {
				return b, bad(label, "must be a whole number "+maxRequests.String()+", or auto")
			}
			b.MaxRequests = n
		case "backup":
			level, ok := backup(value)
			if !ok {
				return b, bad(label, "must be true, false, or a level "+config.Ranges.Of("backends.backup").String())
			}
			b.Backup = level
		case "zone":
			if err := config.ValidateName(value); err != nil {
				return b, bad(label, err.Error())
			}
			b.Zone = value
		case "name":
			if err := config.ValidateName(value); err != nil {
				return b, bad(label, err.Error())
			}
			if n := len(g.targets); n > 1 {
				return b, bad(label, fmt.Sprintf("must be that of one target, and the group has %d", n))
			}
			b.Name = value
		}
	}
	return b, nil
}

// number parses a whole number without a sign.
func number(text string, check func(float64) error) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil && check(float64(n)) == nil
}

// backup parses the level of a backup, or a boolean. Tools written in Python write True.
func backup(text string) (config.Backup, bool) {
	switch {
	case strings.EqualFold(text, "true"):
		return 1, true
	case strings.EqualFold(text, "false"), text == "0":
		return 0, true
	}
	n, ok := number(text, config.Ranges.Of("backends.backup").Check)
	return config.Backup(n), ok
}
