package caddyfile

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/caddyapp"
)

// places are where the words of a directive stand first. Those in the block of a word go by its name and theirs.
type places map[string]caddyfile.Token

// note notes a segment: its word, and those in its block.
func (p places) note(segment []caddyfile.Token) {
	p.noteWord(segment[0].Text, segment[0])
	p.noteBlock(segment[0].Text+" ", segment)
}

// noteBlock notes the words in the block of a segment, with prefix before their names.
func (p places) noteBlock(prefix string, segment []caddyfile.Token) {
	d := atFirst(segment)
	d.RemainingArgs()
	for d.NextBlock(0) {
		p.noteWord(prefix+d.Val(), d.Token())
		d.NextSegment()
	}
}

func (p places) noteWord(word string, token caddyfile.Token) {
	if _, noted := p[word]; !noted {
		p[word] = token
	}
}

// locate says where the words stand that an error is about; of one that is about no word, where the directive does.
func (p places) locate(err error, directive caddyfile.Token) error {
	var about *caddyapp.WordError
	if !errors.As(err, &about) {
		return errorAt(directive, err)
	}
	if about.Setting != "" {
		err = about.InWords()
	}
	var located error
	for _, word := range about.Words {
		switch token, given := p[word]; {
		case !given:
		case located == nil:
			located = errorAt(token, err)
		default:
			return fmt.Errorf("%w; %s is on line %d", located, token.Text, token.Line)
		}
	}
	if located == nil {
		return errorAt(directive, err)
	}
	return located
}

// errorAt says that an error is at that token.
func errorAt(token caddyfile.Token, err error) error {
	return atFirst([]caddyfile.Token{token}).WrapErr(err)
}

// atFirst returns a dispenser that stands on the first of these tokens.
func atFirst(tokens []caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	return d
}
