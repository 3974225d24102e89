package config

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// MaxRequests is how many requests a backend may be serving at a time: a number, 0 for no limit, or [Auto].
type MaxRequests int

// Auto means that the number is measured.
const Auto MaxRequests = pool.Auto

// autoWord is Auto in a config.
const autoWord = "auto"

// ParseMaxRequests parses a number or auto. It does not check the range: see [MaxRequests.Check].
func ParseMaxRequests(text string) (MaxRequests, error) {
	if text == autoWord {
		return Auto, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || MaxRequests(n) == Auto {
		return 0, fmt.Errorf("must be a whole number %s, or %s", Ranges.Of("max_requests"), autoWord)
	}
	return MaxRequests(n), nil
}

// Check checks the range of a configured number. place is where it is configured.
func (m MaxRequests) Check(place string) error {
	if m == Auto {
		return nil
	}
	if err := Ranges.Of("max_requests").CheckIn(place, float64(m)); err != nil {
		return fmt.Errorf("%w, or %s", err, autoWord)
	}
	return nil
}

// InRange implements [caddyapp.Worded].
func (m MaxRequests) InRange() error {
	if m == 0 {
		return nil // left out
	}
	return m.Check("")
}

// String returns the value in the syntax of the Caddyfile.
func (m MaxRequests) String() string {
	if m == Auto {
		return autoWord
	}
	return strconv.Itoa(int(m))
}

// MarshalJSON writes the number, or "auto".
func (m MaxRequests) MarshalJSON() ([]byte, error) {
	if m == Auto {
		return json.Marshal(autoWord)
	}
	return json.Marshal(int(m))
}

// UnmarshalJSON reads what MarshalJSON writes. 0 is an error: for no limit, the setting is left out.
func (m *MaxRequests) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil // null counts as omitted
	}
	var word string
	if json.Unmarshal(text, &word) != nil {
		word = string(text)
	} else if word != autoWord {
		word = strconv.Quote(word) // a quoted number is not accepted
	}
	n, err := ParseMaxRequests(word)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("must be %s, or %s", Ranges.Of("max_requests"), autoWord)
	}
	*m = n
	return nil
}

// DefaultQueue is the queue for backends with a max_requests of auto if none is configured. Without a queue, every request that arrives a
// moment too early would be refused, because a limit of requests in flight does not bound how many may arrive in a burst.
var DefaultQueue = Queue{Size: 1000, Timeout: caddy.Duration(time.Second)}
