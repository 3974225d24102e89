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

// Unit is what a number counts.
type Unit uint8

// The units, with the type that a setting of each has.
const (
	Count Unit = iota // int
	Bytes             // int64
	Share             // float64, of which 1 is 100 %
	Time              // caddy.Duration
)

// Range is what the number in a setting may be.
type Range struct {
	Setting     string // keys of the JSON config, from the outside in, with dots between them
	Unit        Unit
	Least, Most float64 // both may be had
	Off         bool    // 0 and what is less may be had, too, and switch it off
}

// Number is a range of numbers.
func Number(setting string, least, most int) Range {
	return Range{Setting: setting, Unit: Count, Least: float64(least), Most: float64(most)}
}

// Size is a range of sizes in bytes.
func Size(setting string, least, most int64) Range {
	return Range{Setting: setting, Unit: Bytes, Least: float64(least), Most: float64(most)}
}

// Percent is a range of shares, of which the whole is 100 here.
func Percent(setting string, least, most float64) Range {
	return Range{Setting: setting, Unit: Share, Least: least / 100, Most: most / 100}
}

// Duration is a range of times.
func Duration(setting string, least, most time.Duration) Range {
	return Range{Setting: setting, Unit: Time, Least: float64(least), Most: float64(most)}
}

// OrOff is the range with what is not above 0, which switches the setting off.
func (r Range) OrOff() Range {
	r.Off = true
	return r
}

// holds reports whether value is in the range. Percentages are not exact in binary.
func (r Range) holds(value float64) bool {
	const inexact = 1e-12
	return value >= r.Least-inexact && value <= r.Most+inexact || r.Off && value <= 0
}

// Check returns an error unless value is in the range: setting, value, rule.
func (r Range) Check(value float64) error {
	return r.CheckIn(inWords(r.Setting[:max(strings.LastIndexByte(r.Setting, '.'), 0)]), value)
}

// CheckIn is Check, with the place of the setting written like that.
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

// String is the range in words.
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
		const digits = 1e10 // that a percentage can have, being none in binary
		return strconv.FormatFloat(math.Round(value*100*digits)/digits, 'f', -1, 64) + "%"
	case Time:
		return formatTime(time.Duration(value))
	default:
		return strconv.FormatFloat(value, 'f', -1, 64)
	}
}

// formatSize writes a number of bytes in a large unit if it is a whole number of them.
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

// formatTime writes a time without parts of 0.
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

// Ranges are those of a config.
type Ranges []Range

// Of returns the range of a setting that has one.
func (rs Ranges) Of(setting string) Range {
	i := slices.IndexFunc(rs, func(r Range) bool { return r.Setting == setting })
	if i < 0 {
		panic("no range for " + setting)
	}
	return rs[i]
}

// find is Of for any setting.
func (rs Ranges) find(setting string) (Range, bool) {
	i := slices.IndexFunc(rs, func(r Range) bool { return r.Setting == setting })
	if i < 0 {
		return Range{}, false
	}
	return rs[i], true
}

// Check checks the settings in config, a pointer to a struct, but for those that are 0: they are left out. place is where it is in
// the whole config, "" for all of it.
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
				continue // in an embedded struct that is not there
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

// Worded is a setting that may be a word in place of a number. It checks itself.
type Worded interface{ InRange() error }

// number is the value of a setting that has a range.
func number(v reflect.Value) float64 {
	if v.CanFloat() {
		return v.Float()
	}
	return float64(v.Int())
}

// jsonField is a field of a struct that is in its JSON.
type jsonField struct {
	key   string
	index []int
}

// jsonFields are those of a struct, and of the structs that are embedded in it.
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

// structOf returns t if it is a struct, or the struct that it points to; nil if it is neither.
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
