package caddyfile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/policies"
)

// checkAddress refuses a text that was probably not meant as an address, although Caddy would take it for a host name. before is the token
// before it on its line, which helps to suggest what was meant.
func checkAddress(kind string, address, before caddyfile.Token) error {
	meant := whatIsMeant(address.Text, before.Text)
	if meant == "" {
		return nil
	}
	text := address.Text
	if text == "" || strings.ContainsAny(text, " \t\n") {
		text = strconv.Quote(text)
	}
	return fmt.Errorf("%w; %s", errorAt(address, fmt.Errorf("%s %s: is not an address", kind, text)), meant)
}

var (
	assignment = regexp.MustCompile(`^([a-z_]+)=([^=;,]+)`)
	variable   = regexp.MustCompile(`\$(\w+)`)
	quantity   = regexp.MustCompile(`^[0-9]{1,5}(ns|us|ms|s|m|h|d|%)$`)
)

// whatIsMeant suggests what was meant by an upstream that cannot be an address; "" if it may be one. Host names contain neither punctuation
// nor spaces. A word without a port is taken for one of our subdirectives only if it is an unlikely host name.
func whatIsMeant(text, before string) string {
	network, _, _ := strings.Cut(text, "/")
	switch {
	case text == "":
		return "it is empty; is an environment variable not set?"
	case strings.Contains(text, "{"), strings.HasPrefix(network, "unix"), network == "fd", network == "fdgram":
		return ""
	case strings.HasPrefix(text, "@"):
		return "a matcher stands before all addresses"
	case strings.HasPrefix(text, "/") && strings.HasSuffix(text, ".sock"):
		return "did you mean unix/" + text + "?"
	case strings.HasPrefix(text, "/"):
		return "a path to match stands before all addresses"
	case variable.MatchString(text):
		return "did you mean " + variable.ReplaceAllString(text, "{$$$1}") + "?"
	case assignment.MatchString(text):
		parts := assignment.FindStringSubmatch(text)
		return inBlock(parts[1], parts[2], before)
	case strings.ContainsAny(text, " \t\n;,"):
		addresses := strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune(" \t\n;,", c) })
		return "did you mean " + strings.Join(addresses, " ") + "?"
	case network != text && strings.ContainsAny(network, ".:") && !strings.Contains(text, "://"):
		return "did you mean " + network + ", without a path?"
	case strings.ContainsAny(text, ":./"):
		return ""
	case quantity.MatchString(text) || isPort(text) && isWord(before):
		return inBlock(before, text, "")
	case isPort(text):
		return "did you mean :" + text + "?"
	case !strings.Contains(text, "_"):
		return ""
	case slices.Contains(policies.Names(), strings.TrimPrefix(text, "lb_")):
		return "did you mean lb_policy " + text + ", in a block?"
	case isWord(text):
		return belongs(text, placesOf(text, families[0]))
	default:
		return ""
	}
}

// inBlock shows how to give a word and its value to the backend with that address, or in general.
func inBlock(word, value, address string) string {
	if here, ok := elsewhere[word]; ok {
		word = here
	}
	switch places := placesOf(word, families[0]); {
	case slices.Contains(places, "backend") && address != "":
		return fmt.Sprintf("did you mean a block: backend %s { %s %s }?", address, word, value)
	case len(places) > 0:
		return fmt.Sprintf("did you mean %s %s? %s", word, value, belongs(word, places))
	default:
		return "settings belong in a block"
	}
}

func isPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// isWord reports whether a word is a subdirective of load_balancer, or of a block in it.
func isWord(text string) bool { return len(placesOf(text, families[0])) > 0 }
