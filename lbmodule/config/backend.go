package config

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Backend is a backend with properties.
type Backend struct {
	// The [network address](/docs/conventions#network-addresses) to dial: one socket, no port range.
	// Required. Placeholders may be used; the backend is balanced and counted as one, whatever their values.
	Address string `json:"address,omitempty"`

	// The name the backend is shown under. Unique in its pool; the rules are those of the pool's name.
	// Default: the address.
	Name string `json:"name,omitempty"`

	// The share of requests relative to the other backends, 0 to 65535. With 0 the backend is given no new
	// requests. Default: 1.
	Weight *int `json:"weight,omitempty"`

	// The number of requests that the backend may be serving at a time. It is exact: a slot is reserved when the backend is selected. With
	// `auto` the number is measured, and follows the capacity of the backend. Default: that of the load balancer.
	MaxRequests MaxRequests `json:"max_requests,omitempty"`

	// Whether the backend is used only while no primary one is usable: `true`, or the level of the backup from 1 to 9. A level is used only
	// while no backend of a lower level is usable. Default: false.
	Backup Backup `json:"backup,omitempty"`

	// The zone the backend is in, for `prefer_zone`. Default: none.
	Zone string `json:"zone,omitempty"`
}

// Backup is the level of a backup, 0 for a primary backend. In JSON the first level is `true`.
type Backup int

// MarshalJSON writes true for level 1, else the level.
func (b Backup) MarshalJSON() ([]byte, error) {
	if b == 0 || b == 1 {
		return json.Marshal(b == 1)
	}
	return json.Marshal(int(b))
}

// UnmarshalJSON reads a level or a boolean.
func (b *Backup) UnmarshalJSON(text []byte) error {
	var level int
	if err := json.Unmarshal(text, &level); err == nil {
		*b = Backup(level)
		return nil
	}
	var first bool
	if err := json.Unmarshal(text, &first); err != nil {
		return fmt.Errorf("backup %s: must be true, false or a level", text)
	}
	*b = 0
	if first {
		*b = 1
	}
	return nil
}

// Validate checks the backend's own settings.
func (b *Backend) Validate() error {
	if b.Address == "" {
		return fmt.Errorf("backend: address: missing; it must be a host:port or a unix socket")
	}
	if err := ValidateAddress(b.Address); err != nil {
		return fmt.Errorf("backend %s: address: %w", b.Address, err)
	}
	if b.Name != "" {
		if err := ValidateName(b.Name); err != nil {
			return fmt.Errorf("backend %s: name %q: %w", b.Address, b.Name, err)
		}
	}
	if b.Zone != "" {
		if err := ValidateName(b.Zone); err != nil {
			return fmt.Errorf("backend %s: zone %q: %w", b.Address, b.Zone, err)
		}
	}
	if b.Weight != nil {
		if err := ValidateWeight(*b.Weight); err != nil {
			return fmt.Errorf("backend %s: %w", b.Address, err)
		}
	}
	if err := ValidateBackup(int(b.Backup)); err != nil {
		return fmt.Errorf("backend %s: %w", b.Address, err)
	}
	if b.MaxRequests != 0 {
		return b.MaxRequests.Check("backend " + b.Address)
	}
	return nil
}

// ValidateBackup checks the level of a backup; 0 means a primary backend.
func ValidateBackup(level int) error {
	if level == 0 {
		return nil // it is a primary backend
	}
	return Ranges.Of("backends.backup").CheckIn("", float64(level))
}

// ValidateWeight checks a weight.
func ValidateWeight(weight int) error {
	return Ranges.Of("backends.weight").CheckIn("", float64(weight))
}

// CheckUnique checks that no two backends share an address or a name.
func CheckUnique(backends []*Backend) error {
	addresses := make(map[string]bool)
	names := make(map[string]string) // values are the addresses
	for _, b := range backends {
		if addresses[b.Address] {
			return fmt.Errorf("backend %s: given twice", b.Address)
		}
		addresses[b.Address] = true
		name := b.Name
		if name == "" {
			name = b.Address
		}
		if owner, taken := names[name]; taken {
			return fmt.Errorf("backend %s: name %s: is already the name of backend %s", b.Address, name, owner)
		}
		names[name] = b.Address
	}
	return nil
}

const maxNameLength = 128

// ValidateName checks that s can be the name of a pool, a backend or a zone. Names are used in metrics, paths, logs and pages, so
// characters with a meaning there are rejected. Every address without placeholders is a valid name.
func ValidateName(s string) error {
	if s == "" || len(s) > maxNameLength {
		return fmt.Errorf("must have 1 to %d bytes", maxNameLength)
	}
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.ContainsRune("._:/@[]~+-", c):
		default:
			return fmt.Errorf("must consist of letters, digits and ._:/@[]~+-, not %q", c)
		}
	}
	return nil
}

// IsTemplate reports whether an address contains placeholders, and so stands for different backends depending on the request.
func IsTemplate(address string) bool { return strings.Contains(address, "{") }
