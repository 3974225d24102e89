package caddyapp

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Unit is the unit of a number.
type Unit uint8

// The units, with the Go type of settings that have them.
const (
	Count Unit = iota // int
	Bytes             // int64
	Share             // float64, where 1 is 100 %
	Time              // caddy.Duration
)

// Range is the range of the number in a setting.
type Range struct {
	Setting     string // keys of the JSON config, from the outside in, with dots between them
	Unit        Unit
	Least, Most float64 // both inclusive
	Off         bool    // 0 and negative numbers are allowed as well, and switch the setting off
}

// Number returns a range of whole numbers.
func Number(setting string, least, most int) Range {
	return Range{Setting: setting, Unit: Count, Least: float64(least), Most: float64(most)}
}

// Size returns a range of sizes in bytes.
func Size(setting string, least, most int64) Range {
	return Range{Setting: setting, Unit: Bytes, Least: float64(least), Most: float64(most)}
}

// Percent returns a range of shares, given in percent.
func Percent(setting string, least, most float64) Range {
	return Range{Setting: setting, Unit: Share, Least: least / 100, Most: most / 100}
}

// Duration returns a range of durations.
func Duration(setting string, least, most time.Duration) Range {
	return Range{Setting: setting, Unit: Time, Least: float64(least), Most: float64(most)}
}

// OrOff returns the range with 0 and negative numbers allowed, which switch the setting off.
func (r Range) OrOff() Range {
	r.Off = true
	return r
}

// holds reports whether value is in the range. It tolerates rounding, because percentages are not exact in binary.
func (r Range) holds(value float64) bool {
	const inexact = 1e-12
	return value >= r.Least-inexact && value <= r.Most+inexact || r.Off && value <= 0
}

// Check returns an error with setting, value and rule, unless value is in the range.
func (r Range) Check(value float64) error {
	return r.CheckIn(inWords(r.Setting[:max(strings.LastIndexByte(r.Setting, '.'), 0)]), value)
}

// CheckIn is Check with another name for the setting.
func (r Range) CheckIn(place string, value float64) error {
	if r.holds(value) {
		return nil
	}
	name := r.Setting[strings.LastIndexByte(r.Setting, '.')+1:]
	if place != "" {
		name = place + ": " + name
	}
	return fmt.Errorf("%s %s: must be %s", name, r.format(value), r)
}

// String returns the range in words.
func (r Range) String() string {
	text := "from " + r.format(r.Least) + " to " + r.format(r.Most)
	if r.Off {
		text += ", or off"
	}
	return text
}

func (r Range) format(value float64) string {
	switch r.Unit {
	case Bytes:
		return formatSize(value)
	case Share:
		const digits = 1e10 // the precision of a percentage, which is not exact in binary
		return strconv.FormatFloat(math.Round(value*100*digits)/digits, 'f', -1, 64) + "%"
	case Time:
		return formatTime(time.Duration(value))
	default:
		return strconv.FormatFloat(value, 'f', -1, 64)
	}
}

// formatSize formats a number of bytes in the largest unit of which it is a whole multiple.
func formatSize(n float64) string {
	const mebi, gibi = 1 << 20, 1 << 30
	switch size := int64(n); {
	case size != 0 && size%gibi == 0:
		return strconv.FormatInt(size/gibi, 10) + "GiB"
	case size != 0 && size%mebi == 0:
		return strconv.FormatInt(size/mebi, 10) + "MiB"
	default:
		return strconv.FormatInt(size, 10) + "B"
	}
}

// formatTime formats a duration without zero parts.
func formatTime(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

// Ranges are the ranges of the settings of a config.
type Ranges []Range

// Of returns the range of a setting, which must have one.
func (rs Ranges) Of(setting string) Range {
	i := slices.IndexFunc(rs, func(r Range) bool { return r.Setting == setting })
	if i < 0 {
		panic("no range for " + setting)
	}
	return rs[i]
}

// find returns the range of a setting, if it has one.
func (rs Ranges) find(setting string) (Range, bool) {
	i := slices.IndexFunc(rs, func(r Range) bool { return r.Setting == setting })
	if i < 0 {
		return Range{}, false
	}
	return rs[i], true
}

// Check checks the settings in config, a pointer to a struct. Settings of 0 count as left out and are not checked. place is the position of
// config in the whole config, "" for all of it.
func (rs Ranges) Check(place string, config any) error {
	return rs.check(place, reflect.ValueOf(config))
}

func (rs Ranges) check(place string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return rs.check(place, v.Elem())
	case reflect.Struct:
		for _, f := range jsonFields(v.Type()) {
			field, err := v.FieldByIndexErr(f.index)
			if err != nil {
				continue // the embedded pointer is nil
			}
			if err := rs.check(join(place, f.key), field); err != nil {
				return err
			}
		}
		return nil
	}
	if r, ok := rs.find(place); ok && !v.IsZero() {
		if w, ok := v.Interface().(Worded); ok {
			return w.InRange()
		}
		return r.Check(number(v))
	}
	return nil
}

// Worded is a setting whose value may be a word instead of a number. It checks itself.
type Worded interface{ InRange() error }

// number returns the value of a setting with a range.
func number(v reflect.Value) float64 {
	if v.CanFloat() {
		return v.Float()
	}
	return float64(v.Int())
}

// jsonField is a field of a struct that appears in its JSON.
type jsonField struct {
	key   string
	index []int
}

// jsonFields returns the fields of a struct, including those of embedded structs.
func jsonFields(t reflect.Type) (all []jsonField) {
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && key == "" && structOf(f.Type) != nil:
			for _, inner := range jsonFields(structOf(f.Type)) {
				all = append(all, jsonField{inner.key, append([]int{i}, inner.index...)})
			}
		case f.IsExported() && key != "-":
			if key == "" {
				key = f.Name
			}
			all = append(all, jsonField{key, f.Index})
		}
	}
	return all
}

// structOf returns t if it is a struct, the struct that it points to, or nil.
func structOf(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

func join(place, key string) string {
	if place == "" {
		return key
	}
	return place + "." + key
}
