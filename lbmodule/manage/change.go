package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

const (
	// MaxRemark bounds owner and reason.
	MaxRemark = 256
	// maxLasts bounds the duration of a timed change.
	maxLasts = 10 * 365 * 24 * time.Hour
)

// Change is a requested change of a backend. Its values have been checked.
type Change struct {
	Address, Name string // of a backend to add; Name is "" if it has no name of its own
	Edits         []overlay.Edit
	TakeBack      []overlay.Field // fields whose edits are undone
	Mark          overlay.Mark
}

// Verb is the kind of a change.
type Verb uint8

const (
	// Add adds a backend.
	Add Verb = iota
	// Edit changes settings of an existing backend.
	Edit
	// Remove removes a backend.
	Remove
)

// ParseChange parses a change from the fields of a JSON object. Its errors name the field, the value and the rule.
func ParseChange(fields map[string]json.RawMessage, v Verb, now time.Time) (*Change, error) {
	c := &Change{Mark: overlay.Mark{Since: now.UTC().Truncate(time.Millisecond)}}
	var lasts string
	texts := map[string]*string{"owner": &c.Mark.Owner, "reason": &c.Mark.Reason}
	if v != Remove {
		texts["for"], texts["until"] = &lasts, &lasts
	}
	if v == Add {
		texts["address"], texts["name"] = &c.Address, &c.Name
	}
	_, hasFor := fields["for"]
	_, hasUntil := fields["until"]
	if hasFor && hasUntil {
		return nil, errors.New("until: must not be combined with for")
	}
	for word, raw := range fields {
		if text, ok := texts[word]; ok {
			if err := json.Unmarshal(raw, text); err != nil || string(raw) == "null" {
				return nil, fmt.Errorf("%s %s: must be a text", word, raw)
			}
			continue
		}
		if v == Remove || !slices.Contains(overlay.Fields, overlay.Field(word)) {
			return nil, fmt.Errorf("%s: unknown setting", shorten(word))
		}
	}
	if err := c.readUntil(hasFor, hasUntil, lasts, now); err != nil {
		return nil, err
	}
	for _, remark := range []struct{ word, text string }{{"owner", c.Mark.Owner}, {"reason", c.Mark.Reason}} {
		if len(remark.text) > MaxRemark || strings.ContainsFunc(remark.text, unicode.IsControl) {
			return nil, fmt.Errorf("%s %q: must be at most %d bytes without control characters", remark.word, shorten(remark.text), MaxRemark)
		}
	}
	if err := c.readSettings(fields, v == Add); err != nil {
		return nil, err
	}
	if v == Edit && len(c.Edits)+len(c.TakeBack) == 0 {
		return nil, fmt.Errorf("body: must have one of %v", overlay.Fields)
	}
	if !c.Mark.Until.IsZero() && len(c.TakeBack) > 0 {
		return nil, fmt.Errorf("%s null: must not be combined with for or until, because it undoes an edit", c.TakeBack[0])
	}
	if v == Add {
		if err := c.checkAdded(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// checkAdded checks the address and the name of a backend to add.
func (c *Change) checkAdded() error {
	switch {
	case c.Address == "":
		return errors.New("address: missing; it must be a host:port or a unix socket")
	case strings.ContainsAny(c.Address, "{}") || strings.Contains(c.Address, "://"):
		return fmt.Errorf("address %s: must be a host:port or a unix socket, without scheme or placeholders", c.Address)
	}
	if err := config.ValidateAddress(c.Address); err != nil {
		return fmt.Errorf("address %s: %w", c.Address, err)
	}
	if err := config.ValidateName(c.Address); err != nil {
		return fmt.Errorf("address %s: %w", c.Address, err)
	}
	if c.Name != "" {
		if err := config.ValidateName(c.Name); err != nil {
			return fmt.Errorf("name %q: %w", shorten(c.Name), err)
		}
	}
	return nil
}

// shorten cuts a text to a length that fits into an error message.
func shorten(text string) string { return text[:min(len(text), 32)] }

// readUntil parses when the change ends.
func (c *Change) readUntil(isFor, isUntil bool, text string, now time.Time) error {
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
		c.Mark.Until = now.Add(d).UTC().Truncate(time.Millisecond)
	case isUntil:
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("until %q: must be a time as in RFC 3339, such as 2026-01-02T15:04:05Z", shorten(text))
		}
		if !at.After(now) || at.Sub(now) > maxLasts {
			return fmt.Errorf("until %s: must be in the future, and within ten years", text)
		}
		c.Mark.Until = at.UTC()
	}
	return nil
}

// readSettings parses the settings.
func (c *Change) readSettings(fields map[string]json.RawMessage, adding bool) error {
	for _, f := range overlay.Fields {
		raw, given := fields[string(f)]
		switch {
		case !given:
			continue
		case string(raw) == "null" && adding:
			return fmt.Errorf("%s null: must not be given for a new backend, which has no edits to undo", f)
		case string(raw) == "null":
			c.TakeBack = append(c.TakeBack, f)
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
		c.Edits = append(c.Edits, overlay.Edit{Field: f, Value: s.Get(f), Mark: c.Mark})
	}
	return nil
}

// checkSetting checks the range of one setting by the config's rules.
func checkSetting(f overlay.Field, s *overlay.Settings) error {
	switch f {
	case overlay.Weight:
		return config.ValidateWeight(s.Weight)
	case overlay.MaxRequests:
		return config.MaxRequests(s.MaxRequests).Check("")
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
