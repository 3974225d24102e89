package caddyfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// args returns exactly n arguments of the word that d stands on, with placeholders of the environment filled in.
func args(d *caddyfile.Dispenser, n int) ([]string, error) {
	values := d.RemainingArgs()
	if len(values) != n {
		return nil, d.ArgErr()
	}
	environment := caddy.NewReplacer()
	for i, v := range values {
		values[i] = environment.ReplaceKnown(v, "")
	}
	return values, nil
}

// words are what may stand in a block, each with its parser.
type words map[string]func(d *caddyfile.Dispenser) error

// parse parses the block that opens behind d: that of a word, and of what it is given for, if it needs to be told from others. check is
// called after each word, while its line is known.
func (w words) parse(d *caddyfile.Dispenser, block, of string, check func() error, repeatable ...string) error {
	title := strings.TrimSpace(block + " " + of)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		parse, known := w[word]
		if !known {
			return unrecognized(d, title, block)
		}
		if seen[word] && !slices.Contains(repeatable, word) {
			return d.Errf("%s: %s: given twice", title, word)
		}
		seen[word] = true
		if err := parse(d); err != nil {
			return err
		}
		if err := check(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// The functions below make parsers of words with one argument, which they store.

func intoString(target *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		values, err := args(d, 1)
		if err == nil {
			*target = values[0]
		}
		return err
	}
}

// intoTemplate is for texts whose placeholders are filled in later.
func intoTemplate(target *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !d.Args(target) || d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
}

// intoInt is for numbers of at least least.
func intoInt(target *int, least int) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(values[0])
		if err != nil {
			return d.Errf("%s %s: must be a whole number", word, values[0])
		}
		if n < least {
			return d.Errf("%s %d: must be at least %d", word, n, least)
		}
		*target = n
		return nil
	}
}

func intoDuration(target *caddy.Duration) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		*target, err = duration(d, word, values[0])
		return err
	}
}

// intoRatio is for percentages of more than 0: what 0 would mean has a word of its own, off.
func intoRatio(target *float64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		if *target, err = ratio(d, word, values[0]); err == nil && *target == 0 {
			return d.Errf("%s %s: must be more than 0%%", word, values[0])
		}
		return err
	}
}

func intoSize(target *int64) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		size, err := humanize.ParseBytes(values[0])
		if err != nil || size == 0 || size > 1<<40 {
			return d.Errf("%s %s: must be a size in bytes, such as 64KiB", word, values[0])
		}
		*target = int64(size)
		return nil
	}
}

// flag is for words without arguments.
func flag(target *bool) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		_, err := args(d, 0)
		*target = err == nil
		return err
	}
}

// duration reads a duration of more than 0.
func duration(d *caddyfile.Dispenser, word, value string) (caddy.Duration, error) {
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return 0, d.Errf("%s %s: must be a duration of more than 0, such as 5s", word, value)
	}
	return caddy.Duration(parsed), nil
}

// ratio reads a percentage as a number from 0 to 1.
func ratio(d *caddyfile.Dispenser, word, value string) (float64, error) {
	number, percent := strings.CutSuffix(value, "%")
	parsed, err := strconv.ParseFloat(number, 64)
	if err != nil || !percent || !(parsed >= 0 && parsed <= 100) {
		return 0, d.Errf("%s %s: must be a percentage from 0%% to 100%%", word, value)
	}
	return parsed / 100, nil
}

// ranges are addresses and CIDR ranges, where private_ranges stands for all private ones.
func ranges(words []string) (all []string) {
	for _, word := range words {
		if word == "private_ranges" {
			all = append(all, caddyhttp.PrivateRangesCIDR()...)
		} else {
			all = append(all, word)
		}
	}
	return all
}
