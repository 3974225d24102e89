package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/discovery"
)

// resolveSources makes `dynamic file` and `dynamic http`, also within `dynamic multi`, refer to our modules, which have longer names. If
// another plugin has a module with the short name, reverse_proxy uses that.
func resolveSources(segment []caddyfile.Token) {
	var inMulti []bool // for each open block, whether it is that of a `multi`
	multi := false     // the last source was a `multi`
	for i := 1; i < len(segment); i++ {
		word := &segment[i]
		switch {
		case word.Text == "{" && !word.Quoted() && endsLine(segment, i):
			inMulti = append(inMulti, multi)
			multi = false
		case word.Text == "}" && !word.Quoted() && len(inMulti) > 0 && beginsLine(segment, i):
			inMulti = inMulti[:len(inMulti)-1]
			multi = false
		case i == 1, len(inMulti) > 0 && inMulti[len(inMulti)-1] && beginsLine(segment, i):
			multi = word.Text == "multi"
			word.Text = discovery.Resolve(word.Text)
		}
	}
}

func beginsLine(tokens []caddyfile.Token, i int) bool {
	return i == 0 || tokens[i-1].File != tokens[i].File || tokens[i-1].Line+tokens[i-1].NumLineBreaks() != tokens[i].Line
}

func endsLine(tokens []caddyfile.Token, i int) bool {
	return i+1 == len(tokens) || beginsLine(tokens, i+1)
}
