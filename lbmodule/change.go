package lbmodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

const (
	// maxRemark bounds owner and reason.
	maxRemark = 256
	// maxLasts bounds for how long a timed change lasts.
	maxLasts = 10 * 365 * 24 * time.Hour
)

// change is what a request wants of a backend.
type change struct {
	address, name string
	edits         []overlay.Edit
	takeBack      []overlay.Field
	mark          overlay.Mark
}

// verb is what a change is to do with a backend.
type verb uint8

const (
	add verb = iota
	edit
	remove
)

// parseChange reads a change from JSON.
func parseChange(body []byte, v verb, now time.Time) (*change, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, fmt.Errorf("body: must be a JSON object: %w", err)
	}
	if fields == nil {
		return nil, errors.New("body: must be a JSON object")
	}
	if err := caddyapp.Once(body); err != nil {
		return nil, err
	}
	c := &change{mark: overlay.Mark{Since: now.UTC().Truncate(time.Millisecond)}}
	var lasts string
	texts := map[string]*string{"owner": &c.mark.Owner, "reason": &c.mark.Reason}
	if v != remove {
		texts["for"], texts["until"] = &lasts, &lasts
	}
	if v == add {
		texts["address"], texts["name"] = &c.address, &c.name
	}
	_, hasFor := fields["for"]
	_, hasUntil := fields["until"]
	if hasFor && hasUntil {
		return nil, errors.New("until: for is given, too; give one of them")
	}
	for word, raw := range fields {
		if text, ok := texts[word]; ok {
			if err := json.Unmarshal(raw, text); err != nil || string(raw) == "null" {
				return nil, fmt.Errorf("%s %s: must be a text", word, raw)
			}
			continue
		}
		if v == remove || !slices.Contains(overlay.Fields, overlay.Field(word)) {
			return nil, fmt.Errorf("%s: there is no such setting here", shorten(word))
		}
	}
	if err := c.lasts(hasFor, hasUntil, lasts, now); err != nil {
		return nil, err
	}
	for _, remark := range []struct{ word, text string }{{"owner", c.mark.Owner}, {"reason", c.mark.Reason}} {
		if len(remark.text) > maxRemark || strings.ContainsFunc(remark.text, unicode.IsControl) {
			return nil, fmt.Errorf("%s %q: must be at most %d bytes without control characters", remark.word, shorten(remark.text), maxRemark)
		}
	}
	if err := c.take(fields, v == add); err != nil {
		return nil, err
	}
	if v == edit && len(c.edits)+len(c.takeBack) == 0 {
		return nil, fmt.Errorf("body: must have one of %v", overlay.Fields)
	}
	if !c.mark.Until.IsZero() && len(c.takeBack) > 0 {
		return nil, fmt.Errorf("%s null: an edit that is taken back cannot be timed", c.takeBack[0])
	}
	return c, nil
}

func shorten(text string) string { return text[:min(len(text), 32)] }

// lasts reads until when the change is.
func (c *change) lasts(isFor, isUntil bool, text string, now time.Time) error {
	switch {
	case isFor:
		lasting := config.Ranges.Of("changes.for")
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("for %q: must be a duration %s, such as 30m", shorten(text), lasting)
		}
		if err := lasting.CheckIn("", float64(d)); err != nil {
			return err
		}
		c.mark.Until = now.Add(d).UTC().Truncate(time.Millisecond)
	case isUntil:
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("until %q: must be a time as in RFC 3339, such as 2026-01-02T15:04:05Z", shorten(text))
		}
		if !at.After(now) || at.Sub(now) > maxLasts {
			return fmt.Errorf("until %s: must be in the future, and within ten years", text)
		}
		c.mark.Until = at.UTC()
	}
	return nil
}

// take reads the settings.
func (c *change) take(fields map[string]json.RawMessage, adding bool) error {
	for _, f := range overlay.Fields {
		raw, given := fields[string(f)]
		switch {
		case !given:
			continue
		case string(raw) == "null" && adding:
			return fmt.Errorf("%s null: a backend that is added has no edits to take back", f)
		case string(raw) == "null":
			c.takeBack = append(c.takeBack, f)
			continue
		}
		var value any
		if err := json.Unmarshal(raw, &value); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		var s overlay.Settings
		if err := s.Set(f, value); err != nil {
			return err
		}
		if err := checkSetting(f, &s); err != nil {
			return err
		}
		c.edits = append(c.edits, overlay.Edit{Field: f, Value: s.Get(f), Mark: c.mark})
	}
	return nil
}

// checkSetting checks the range of one setting, by the rules of the config.
func checkSetting(f overlay.Field, s *overlay.Settings) error {
	switch f {
	case overlay.Weight:
		return config.ValidateWeight(s.Weight)
	case overlay.MaxRequests:
		return config.Ranges.Of("backends.max_requests").CheckIn("", float64(s.MaxRequests))
	case overlay.Backup:
		return config.ValidateBackup(s.Backup)
	case overlay.Zone:
		if s.Zone != "" {
			if err := config.ValidateName(s.Zone); err != nil {
				return fmt.Errorf("zone %q: %w", shorten(s.Zone), err)
			}
		}
	}
	return nil
}
