package caddyfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// args returns exactly n arguments of the current word, with placeholders of the environment replaced.
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

// pair returns the two arguments of the current word. rule describes them, for the error if only one is given.
func pair(d *caddyfile.Dispenser, rule string) ([]string, error) {
	word := d.Val()
	if d.NextArg() {
		first := d.Val()
		if !d.NextArg() {
			return nil, d.Errf("%s %s: must be %s", word, first, rule)
		}
		d.Prev()
		d.Prev()
	}
	return args(d, 2)
}

// words are the words that are allowed in a block, each with its parser.
type words map[string]func(d *caddyfile.Dispenser) error

// parse parses the block that follows. block is its word, and of what it belongs to, if errors must tell them apart. check is called after
// each word, while its line is known.
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

// The functions below return parsers for words with one argument, which they store.

func intoString(target *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		values, err := args(d, 1)
		if err == nil {
			*target = values[0]
		}
		return err
	}
}

// intoTemplate is for texts whose placeholders are replaced later.
func intoTemplate(target *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		if !d.Args(target) || d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
}

// intoSecret is intoTemplate for texts that errors must not show.
func intoSecret(target *string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		if !d.Args(target) || d.NextArg() {
			return d.Errf("%s: must be one word, in quotes if it has spaces", word)
		}
		return nil
	}
}

// bounds is the range of a number.
type bounds interface {
	Check(value float64) error
	String() string
}

func intoInt(target *int, in bounds) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(values[0])
		if err != nil {
			return d.Errf("%s %s: must be a whole number %s", word, values[0], in)
		}
		if err := in.Check(float64(n)); err != nil {
			return d.WrapErr(err)
		}
		*target = n
		return nil
	}
}

// intoMaxRequests is intoInt for max_requests. place names its block.
func intoMaxRequests(target *config.MaxRequests, place string) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		if *target, err = config.ParseMaxRequests(values[0]); err != nil {
			return d.Errf("max_requests %s: %v", values[0], err)
		}
		if err := target.Check(place); err != nil {
			return d.WrapErr(err)
		}
		return nil
	}
}

func intoDuration(target *caddy.Duration, in bounds) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		*target, err = duration(d, word, values[0], in)
		return err
	}
}

func intoRatio(target *float64, in bounds) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		*target, err = ratio(d, word, values[0], in)
		return err
	}
}

func intoSize(target *int64, in bounds) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		size, err := humanize.ParseBytes(values[0])
		if err != nil {
			return d.Errf("%s %s: must be a size %s", word, values[0], in)
		}
		if err := in.Check(float64(size)); err != nil {
			return d.WrapErr(err)
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

// duration parses a duration.
func duration(d *caddyfile.Dispenser, word, value string, in bounds) (caddy.Duration, error) {
	parsed, err := caddy.ParseDuration(value)
	if err != nil {
		return 0, d.Errf("%s %s: must be a duration %s", word, value, in)
	}
	if err := in.Check(float64(parsed)); err != nil {
		return 0, d.WrapErr(err)
	}
	return caddy.Duration(parsed), nil
}

// ratio parses a percentage as a number from 0 to 1.
func ratio(d *caddyfile.Dispenser, word, value string, in bounds) (float64, error) {
	number, percent := strings.CutSuffix(value, "%")
	parsed, err := strconv.ParseFloat(number, 64)
	if err != nil || !percent {
		return 0, d.Errf("%s %s: must be a percentage %s", word, value, in)
	}
	if err := in.Check(parsed / 100); err != nil {
		return 0, d.WrapErr(err)
	}
	return parsed / 100, nil
}

// ranges returns addresses and CIDR ranges, with private_ranges expanded.
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
