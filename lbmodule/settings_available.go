package lbmodule

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// available refuses settings whose machinery is not part of this version, unless they switch it off or set
// its defaults. A line goes when its machinery comes.
func (s *Settings) available() error {
	return promisesValue("prefer_zone", s.PreferZone, s.PreferZone)
}

func promisesValue[T comparable](word string, value T, shown any) error {
	var none T
	if value == none {
		return nil
	}
	return fmt.Errorf("%s: %v: not part of this version; leave it out", word, shown)
}

// display makes a value readable: durations with units, and what pointers point to.
func display(value any) any {
	if d, ok := value.(caddy.Duration); ok {
		return time.Duration(d)
	}
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return value
	}
	var parts []string
	for i := range v.Elem().NumField() {
		parts = append(parts, fmt.Sprint(display(v.Elem().Field(i).Interface())))
	}
	return strings.Join(parts, " ")
}
