package overlay

import (
	"fmt"
	"math"
)

// State is the administrative state of a backend.
type State string

const (
	// Ready is normal operation.
	Ready State = "ready"
	// Drain means no new requests; sessions may stay, and open requests run to their end.
	Drain State = "drain"
	// Maintenance means no requests and no checks.
	Maintenance State = "maintenance"
)

// Settings are the settings of a backend that can be edited.
type Settings struct {
	Weight      int
	MaxRequests int // 0 for none; or Auto
	Backup      int // level; 0 for none
	Zone        string
	State       State
}

// Auto as MaxRequests means that the number is measured. Set accepts no such number.
const Auto = math.MinInt32

// autoWord is Auto in the API.
const autoWord = "auto"

// Backend is a backend with its settings.
type Backend struct {
	Address string
	Name    string // the address if it has no name of its own
	Settings
}

// Field is the name of a setting.
type Field string

// The fields, in the order in which they are shown.
const (
	Weight      Field = "weight"
	MaxRequests Field = "max_requests"
	Backup      Field = "backup"
	Zone        Field = "zone"
	StateField  Field = "state"
)

// Fields are all fields.
var Fields = []Field{Weight, MaxRequests, Backup, Zone, StateField}

// Get returns the value of a field: an int, a bool or a string. Backup level 1 is true, Auto is "auto".
func (s *Settings) Get(f Field) any {
	switch f {
	case Weight:
		return s.Weight
	case MaxRequests:
		if s.MaxRequests == Auto {
			return autoWord
		}
		return s.MaxRequests
	case Backup:
		if s.Backup > 1 {
			return s.Backup
		}
		return s.Backup == 1
	case Zone:
		return s.Zone
	case StateField:
		return string(s.State)
	default:
		return nil
	}
}

// Set sets a field. Numbers may have the types that JSON decoding produces.
func (s *Settings) Set(f Field, value any) error {
	switch f {
	case Weight:
		n, ok := wholeNumber(value)
		if !ok {
			return fmt.Errorf("%s %v: must be a whole number", f, value)
		}
		s.Weight = n
	case MaxRequests:
		n, ok := wholeNumber(value)
		if value == autoWord {
			n, ok = Auto, true
		}
		if !ok {
			return fmt.Errorf("%s %v: must be a whole number, or auto", f, value)
		}
		s.MaxRequests = n
	case Backup:
		level, ok := wholeNumber(value)
		if first, is := value.(bool); is {
			level, ok = 0, true
			if first {
				level = 1
			}
		}
		if !ok {
			return fmt.Errorf("%s %v: must be true, false or a level", f, value)
		}
		s.Backup = level
	case Zone:
		text, ok := value.(string)
		if !ok {
			return fmt.Errorf("%s %v: must be a text", f, value)
		}
		s.Zone = text
	case StateField:
		text, ok := value.(string)
		state := State(text)
		if !ok || state != Ready && state != Drain && state != Maintenance {
			return fmt.Errorf("%s %v: must be ready, drain or maintenance", f, value)
		}
		s.State = state
	default:
		return fmt.Errorf("%s: unknown setting", f)
	}
	return nil
}

func wholeNumber(value any) (int, bool) {
	switch n := value.(type) {
	case int:
		return n, true
	case float64:
		return int(n), n == math.Trunc(n) && math.Abs(n) <= math.MaxInt32
	default:
		return 0, false
	}
}
