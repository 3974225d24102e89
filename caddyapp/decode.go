package caddyapp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Decode decodes a JSON config, which is at place in the whole config, into a pointer to a struct. It is as strict as Caddy, and also
// refuses what Go's decoder accepts: a duplicate key, null in a list where Caddy's modules expect a value, and a number of 0 that would be
// taken for an omitted setting. Its errors name the setting.
func (rs Ranges) Decode(place string, text []byte, into any) error {
	if err := rs.inspect(place, text, reflect.TypeOf(into)); err != nil {
		return err
	}
	return caddy.StrictUnmarshalJSON(text, into)
}

// inspect returns the first error in the JSON of a value of type t.
func (rs Ranges) inspect(place string, text json.RawMessage, t reflect.Type) error {
	text = bytes.TrimSpace(text)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	readsItself := reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
	switch {
	case string(text) == "null":
		return nil // null counts as omitted
	case t == caddy.JSONRawMessageType:
		return inspectModule(place, text)
	case readsItself:
	case t.Kind() == reflect.Struct:
		return rs.inspectObject(place, text, t)
	case t.Kind() == reflect.Map:
		return eachKey(place, text, func(key string, value json.RawMessage) error {
			return rs.inspect(join(place, key), value, t.Elem())
		})
	case t.Kind() == reflect.Slice:
		return eachElement(place, text, func(at string, element json.RawMessage) error {
			return rs.inspect(join(place, at), element, t.Elem())
		})
	}
	r, ranged := rs.find(unnumbered(place))
	isDuration := t == reflect.TypeFor[caddy.Duration]()
	value := reflect.New(t)
	if err := json.Unmarshal(text, value.Interface()); err != nil {
		switch {
		case readsItself && !isDuration:
		case ranged:
			err = fmt.Errorf("must be %s %s", kind(t), r)
		default:
			err = fmt.Errorf("must be %s", kind(t))
		}
		return wrong(place, text, err)
	}
	if ranged && value.Elem().IsZero() && (isDuration || !readsItself) {
		return r.CheckIn(inWords(place[:max(strings.LastIndexByte(place, '.'), 0)]), 0)
	}
	return nil
}

// kind describes the JSON that a value of type t needs.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Float64:
		return "a number"
	case reflect.Int64:
		if t == reflect.TypeFor[caddy.Duration]() {
			return "a duration"
		}
	}
	return "a whole number"
}

func (rs Ranges) inspectObject(place string, text json.RawMessage, t reflect.Type) error {
	fields := jsonFields(t)
	return eachKey(place, text, func(key string, value json.RawMessage) error {
		for _, f := range fields {
			if strings.EqualFold(f.key, key) {
				return rs.inspect(join(place, f.key), value, t.FieldByIndex(f.index).Type)
			}
		}
		if place != "" {
			return fmt.Errorf("%s: unknown field %q", inWords(place), key)
		}
		return fmt.Errorf("unknown field %q", key)
	})
}

// inspectModule inspects the JSON of a module of any plugin.
func inspectModule(place string, text json.RawMessage) error {
	text = bytes.TrimSpace(text)
	switch text[0] {
	case '{':
		return eachKey(place, text, func(key string, value json.RawMessage) error { return inspectModule(join(place, key), value) })
	case '[':
		return eachElement(place, text, func(at string, element json.RawMessage) error {
			return inspectModule(join(place, at), element)
		})
	default:
		return nil
	}
}

// Once returns an error if a JSON object has a duplicate key.
func Once(text []byte) error {
	return eachKey("", text, func(string, json.RawMessage) error { return nil })
}

// eachKey calls do for each key of an object. It refuses duplicate keys.
func eachKey(place string, text json.RawMessage, do func(key string, value json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return wrong(place, text, errors.New("must be an object"))
	}
	seen := make(map[string]bool)
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return wrong(place, text, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return wrong(place, text, err)
		}
		name := key.(string) // the decoder guarantees that keys are strings
		if seen[name] {
			return fmt.Errorf("%s: given twice", inWords(join(place, name)))
		}
		seen[name] = true
		if err := do(name, value); err != nil {
			return err
		}
	}
	return nil
}

// eachElement calls do for each element of a list, with its position. It refuses null.
func eachElement(place string, text json.RawMessage, do func(at string, element json.RawMessage) error) error {
	var list []json.RawMessage
	if err := json.Unmarshal(text, &list); err != nil {
		return wrong(place, text, errors.New("must be a list"))
	}
	for i, element := range list {
		if string(element) == "null" {
			return fmt.Errorf("%s: position %d is null", inWords(place), i)
		}
		if err := do("["+strconv.Itoa(i)+"]", element); err != nil {
			return err
		}
	}
	return nil
}

// wrong returns the error for a setting whose JSON cannot be decoded.
func wrong(place string, text json.RawMessage, err error) error {
	if place == "" {
		return err
	}
	if slices.ContainsFunc(strings.Split(place, "."), holdsSecrets) {
		return fmt.Errorf("%s: %w", inWords(place), err)
	}
	const most = 32
	if len(text) > most {
		text = append(text[:most:most], "..."...)
	}
	return fmt.Errorf("%s %s: %w", inWords(place), text, err)
}

// holdsSecrets reports whether a setting may contain a secret, which errors must not show.
func holdsSecrets(key string) bool {
	return slices.Contains([]string{"secret", "secrets", "redis", "headers", "url"}, key)
}

// inWords formats a place for messages: breaker.open becomes "breaker: open", backends.[0] becomes "backends: position 0".
func inWords(place string) string {
	keys := strings.Split(place, ".")
	for i, key := range keys {
		if isPosition(key) {
			keys[i] = "position " + strings.Trim(key, "[]")
		}
	}
	return strings.Join(keys, ": ")
}

// unnumbered returns a place without positions in lists.
func unnumbered(place string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(place, "."), isPosition), ".")
}

func isPosition(key string) bool { return strings.HasPrefix(key, "[") }
