package nginx

import (
	"fmt"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// directive is a directive with its block.
type directive struct {
	name  string
	args  []string
	block []*directive
	opens bool // it has a block
	line  *draft.Line
}

// arg returns the argument at an index, "" if there are fewer.
func (d *directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

// token is a word, or one of {, } and ;.
type token struct {
	text   string
	line   int
	syntax bool
	at     int
}

// deepest is the maximum depth of blocks.
const deepest = 30

// scan returns the tokens of a configuration.
func scan(text string) ([]token, error) {
	var tokens []token
	line := 1
	for i := 0; i < len(text); {
		c := text[i]
		switch c {
		case '\n':
			line++
			i++
		case ' ', '\t', '\r':
			i++
		case '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case '{', '}', ';':
			tokens = append(tokens, token{string(c), line, true, i})
			i++
			if c == '{' && lua(tokens) {
				end, ok := closing(text, i)
				if !ok {
					return nil, fmt.Errorf("%d: a block of Lua does not end", line)
				}
				line += strings.Count(text[i:end], "\n")
				i = end
			}
		case '"', '\'':
			start, begins := line, i
			var b strings.Builder
			i++
			for ; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' && i+1 < len(text) {
					i++
					b.WriteString(unescape(text[i]))
				} else {
					b.WriteByte(text[i])
				}
				if text[i] == '\n' {
					line++
				}
			}
			if i >= len(text) {
				return nil, fmt.Errorf("%d: a quote does not end", start)
			}
			i++
			tokens = append(tokens, token{b.String(), start, false, begins})
		default:
			begins := i
			var b strings.Builder
			for i < len(text) {
				c := text[i]
				if c == '\\' && i+1 < len(text) && text[i+1] != '\n' {
					b.WriteString(unescape(text[i+1]))
					i += 2
					continue
				}
				if c == '$' && i+1 < len(text) && text[i+1] == '{' {
					if end := strings.IndexByte(text[i:], '}'); end > 0 && !strings.ContainsAny(text[i:i+end], " \n;") {
						b.WriteString(text[i : i+end+1])
						i += end + 1
						continue
					}
				}
				if c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ';' || c == '{' {
					break
				}
				b.WriteByte(c)
				i++
			}
			if i == begins {
				b.WriteByte(text[i])
				i++
			}
			tokens = append(tokens, token{b.String(), line, false, begins})
		}
	}
	return tokens, nil
}

// unescape returns what nginx reads for a backslash and a byte. The backslash stays if they are not an escape, as in regular expressions.
func unescape(c byte) string {
	switch c {
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'r':
		return "\r"
	case '"', '\'', '\\':
		return string(c)
	}
	return `\` + string(c)
}

// lua reports whether the block that begins contains Lua code.
func lua(tokens []token) bool {
	for i := len(tokens) - 2; i >= 0 && i >= len(tokens)-4 && !tokens[i].syntax; i-- {
		if strings.HasSuffix(tokens[i].text, "_by_lua_block") {
			return true
		}
	}
	return false
}

// closing returns the index of the brace that closes a block.
func closing(text string, i int) (int, bool) {
	for depth := 1; i < len(text); i++ {
		switch text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i, true
			}
		}
	}
	return 0, false
}

// parse returns the directives of a configuration.
func parse(text string, ledger *draft.Ledger) ([]*directive, error) {
	tokens, err := scan(text)
	if err != nil {
		return nil, err
	}
	list, rest, err := block(tokens, ledger, 0)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d: a closing brace too many", rest[0].line)
	}
	return list, err
}

func block(tokens []token, ledger *draft.Ledger, depth int) ([]*directive, []token, error) {
	var list []*directive
	if depth > deepest {
		return nil, nil, fmt.Errorf("%d: blocks are too deep", tokens[0].line)
	}
	for len(tokens) > 0 {
		first := tokens[0]
		if first.syntax {
			switch first.text {
			case "}":
				return list, tokens, nil
			case ";":
				tokens = tokens[1:]
				continue
			}
			return nil, nil, fmt.Errorf("%d: unexpected %s", first.line, first.text)
		}
		d := &directive{name: first.text}
		tokens = tokens[1:]
		shown := []string{first.text}
		for len(tokens) > 0 && !tokens[0].syntax {
			d.args = append(d.args, tokens[0].text)
			shown = append(shown, tokens[0].text)
			tokens = tokens[1:]
		}
		if len(tokens) == 0 {
			return nil, nil, fmt.Errorf("%d: %s does not end", first.line, first.text)
		}
		end := tokens[0]
		tokens = tokens[1:]
		d.line = ledger.Add(first.line, draft.OneLine(strings.Join(shown, " ")))
		switch end.text {
		case "{":
			d.opens = true
			var err error
			if d.block, tokens, err = block(tokens, ledger, depth+1); err != nil {
				return nil, nil, err
			}
			if len(tokens) == 0 {
				return nil, nil, fmt.Errorf("%d: the block of %s does not end", first.line, first.text)
			}
			tokens = tokens[1:]
		case "}":
			return nil, nil, fmt.Errorf("%d: %s does not end in ;", first.line, first.text)
		}
		list = append(list, d)
	}
	return list, nil, nil
}
