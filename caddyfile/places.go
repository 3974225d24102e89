package caddyfile

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/caddyapp"
)

// places are the tokens of a directive's words, at their first use. The key of a word in a block is the block's name and its own.
type places map[string]caddyfile.Token

// note records a segment: its word, and those in its block.
func (p places) note(segment []caddyfile.Token) {
	p.noteWord(segment[0].Text, segment[0])
	p.noteBlock(segment[0].Text+" ", segment)
}

// noteBlock records the words in the block of a segment, with prefix before their names.
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

// locate adds to an error the lines of the words that it is about, or that of the directive if it is about none.
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

// errorAt adds the position of the token to an error.
func errorAt(token caddyfile.Token, err error) error {
	return atFirst([]caddyfile.Token{token}).WrapErr(err)
}

// atFirst returns a dispenser at the first of these tokens.
func atFirst(tokens []caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	return d
}
