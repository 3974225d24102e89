package plain

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Clean returns s without characters that a terminal would interpret rather than show: control characters of both sets (escape sequences
// begin with one), characters that change the direction of text, and invalid UTF-8. Line ends and tabs become spaces, all others a question
// mark, which shows that a character was removed. Combining marks stay with their letter, up to three.
func Clean(s string) string {
	const most = 3
	marks := most // none begins a text: it would change what stands before
	return strings.Map(func(r rune) rune {
		if isMark(r) && marks < most {
			marks++
			return r
		}
		marks = 0
		if unicode.IsSpace(r) {
			marks = most
		}
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case obeyed(r):
			return '?'
		default:
			return r
		}
	}, s)
}

// isMark reports whether r is drawn over the letter before it and takes no column of its own. Invisible and enclosing marks do not count,
// because names that differ in them look alike.
func isMark(r rune) bool {
	return r >= firstMark && unicode.Is(unicode.Mn, r) && !unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point)
}

const firstMark = 0x300

// obeyed reports whether terminals interpret r. unicode.IsPrint excludes categories C (control, format, private use, surrogates) and the
// line separators. Combining runes are excluded as well, unless [Clean] keeps them with their letter.
func obeyed(r rune) bool {
	return r == utf8.RuneError || r != ' ' && !unicode.IsPrint(r) || unicode.In(r, unicode.Mn, unicode.Me)
}

// CleanJSON returns valid JSON with the same meaning and without characters that a terminal would interpret. Valid JSON escapes control
// characters below the space anyway; CleanJSON escapes the others, too.
func CleanJSON(text []byte) []byte {
	var b strings.Builder
	b.Grow(len(text))
	for _, r := range string(text) {
		switch {
		case r < ' ' || r == utf8.RuneError || !obeyed(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return []byte(b.String())
}

// Width returns the number of terminal columns of the clean text s.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	if isMark(r) {
		return 0
	}
	if r < 0x1100 { // the first wide character
		return 1
	}
	if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
		return 2
	}
	return 1
}

// Clip returns the beginning of the clean text s that fits into that many columns.
func Clip(s string, columns int) string {
	for i, r := range s {
		if columns -= runeWidth(r); columns < 0 {
			return s[:i]
		}
	}
	return s
}

// Wrap breaks the clean text s into pieces of at most that many columns: between words, and within a word that is longer. With 0 columns it
// does not break s.
func Wrap(s string, columns int) (pieces []string) {
	const least = 2 // columns of the widest character
	if columns <= 0 {
		return []string{s}
	}
	columns = max(columns, least)
	for Width(s) > columns {
		piece := Clip(s, columns)
		if i := strings.LastIndexByte(s[:len(piece)+1], ' '); i > 0 {
			piece = s[:i] // the space may be the first character that does not fit
		}
		pieces = append(pieces, piece)
		s = strings.TrimLeft(s[len(piece):], " ")
	}
	return append(pieces, s)
}
