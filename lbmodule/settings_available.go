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
	return first(
		promises("debug_header", s.DebugHeader, DebugHeader{}, "leave it out, or write \"debug_header off\""),
		promisesValue("drain_timeout", s.DrainTimeout, display(s.DrainTimeout)),
	)
}

// promises returns an error if the setting is on and one of its fields is neither left out nor the default.
func promises[T any](word string, setting *T, defaults T, instead string) error {
	if setting == nil {
		return nil
	}
	value, standard := reflect.ValueOf(*setting), reflect.ValueOf(defaults)
	if value.FieldByName("Disabled").Bool() {
		return nil
	}
	for i := range value.NumField() {
		if value.Field(i).IsZero() || reflect.DeepEqual(value.Field(i).Interface(), standard.Field(i).Interface()) {
			continue
		}
		field, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		what := strings.TrimSpace(fmt.Sprint(field, " ", display(value.Field(i).Interface())))
		return fmt.Errorf("%s: %s: not part of this version; %s", word, what, instead)
	}
	return nil
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
