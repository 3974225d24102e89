package plain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// Event formats an event as a line: the time, its name, the pool, the backend, and the other fields.
func Event(name string, data map[string]any) string {
	text := func(field string) string {
		s, _ := data[field].(string)
		return s
	}
	at := text("time")
	if t, err := time.Parse(time.RFC3339Nano, at); err == nil {
		at = t.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	var details []string
	add := func(detail string) {
		if detail != "" && !slices.Contains(details, detail) {
			details = append(details, detail)
		}
	}
	add(changed(data["before"], data["after"]))
	if field := text("field"); field != "" {
		add(field + ": " + cmp.Or(text("reason"), None))
	} else {
		add(text("reason"))
	}
	add(text("error"))
	for _, field := range slices.Sorted(maps.Keys(data)) {
		switch field {
		case "time", "pool", "backend", "reason", "error", "before", "after", "field", "owner":
		default:
			add(detail(field, data))
		}
	}
	if owner := text("owner"); owner != "" {
		add("by " + owner)
	}
	return fmt.Sprintf("%s  %-19s  %s  %s  %s", cmp.Or(at, None), cmp.Or(name, None), cmp.Or(text("pool"), None), cmp.Or(text("backend"), None),
		cmp.Or(strings.Join(details, "; "), None))
}

// detail formats one of the other fields of an event.
func detail(field string, data map[string]any) string {
	value := data[field]
	number, isNumber := value.(float64)
	switch field {
	case "open_for":
		if isNumber {
			return "open for " + time.Duration(number*float64(time.Second)).Round(100*time.Millisecond).String()
		}
	case "share", "error_rate":
		if isNumber {
			return fmt.Sprintf("%s %.3g%%", field, 100*number)
		}
	case "usable":
		if total, is := data["total"].(float64); is {
			return Number(number) + " of " + Number(total) + " usable"
		}
	case "total":
		if _, is := data["usable"]; is {
			return "" // usable shows both
		}
	}
	words := strings.ReplaceAll(field, "_", " ")
	if on, is := value.(bool); is {
		if !on {
			return ""
		}
		return words
	}
	if text := word(value); text != "" {
		return words + " " + text
	}
	return ""
}

// changed describes the fields that a change set: the old value, if it is known, and the new one.
func changed(before, after any) string {
	was, _ := before.(map[string]any)
	is, _ := after.(map[string]any)
	var fields []string
	for _, field := range slices.Sorted(maps.Keys(is)) {
		now := cmp.Or(word(is[field]), None)
		if is[field] == nil {
			now = "as in the config"
		}
		if old := word(was[field]); old != "" {
			now = old + " -> " + now
		}
		fields = append(fields, strings.ReplaceAll(field, "_", " ")+" "+now)
	}
	return strings.Join(fields, ", ")
}

// word formats a JSON value for people; "" for null.
func word(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		if v {
			return "yes"
		}
		return "no"
	case float64:
		return Number(v)
	case []any:
		words := make([]string, len(v))
		for i := range v {
			words[i] = word(v[i])
		}
		return strings.Join(words, " ")
	case map[string]any:
		var words []string
		for _, field := range slices.Sorted(maps.Keys(v)) {
			if text := word(v[field]); text != "" {
				words = append(words, strings.ReplaceAll(field, "_", " ")+" "+text)
			}
		}
		return "(" + strings.Join(words, ", ") + ")"
	default:
		return ""
	}
}

// EventData decodes the data of an event.
func EventData(e api.Event) (data map[string]any, err error) {
	if err := json.Unmarshal([]byte(e.Data), &data); err != nil {
		return nil, &api.Error{Message: fmt.Sprintf("event %s: its data cannot be read: %v", e.ID, err)}
	}
	return data, nil
}
