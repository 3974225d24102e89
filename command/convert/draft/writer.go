package draft

import (
	"strings"
	"unicode"
)

// Writer writes a Caddyfile.
type Writer struct {
	b     strings.Builder
	depth int
}

// String returns what was written.
func (w *Writer) String() string { return w.b.String() }

// Len returns how much was written.
func (w *Writer) Len() int { return w.b.Len() }

// Line writes a directive of these words.
func (w *Writer) Line(words ...string) { w.write(words, "") }

// Open begins a block that these words introduce.
func (w *Writer) Open(words ...string) { w.write(words, " {") }

// Close ends a block.
func (w *Writer) Close() {
	w.depth--
	w.b.WriteString(strings.Repeat("\t", w.depth) + "}\n")
}

// Blank writes an empty line, unless there is one already or a block has just begun.
func (w *Writer) Blank() {
	if s := w.b.String(); s != "" && !strings.HasSuffix(s, "\n\n") && !strings.HasSuffix(s, "{\n") {
		w.b.WriteByte('\n')
	}
}

// Comment writes a comment.
func (w *Writer) Comment(texts ...string) {
	for _, text := range texts {
		// Caddy replaces {$NAME} in comments, too, and the text of a variable could end the comment.
		text = strings.ReplaceAll(OneLine(text), "{$", "{ $")
		w.b.WriteString(strings.Repeat("\t", w.depth) + "# " + text + "\n")
	}
}

// Add writes what another writer has, at this depth.
func (w *Writer) Add(text string) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			w.b.WriteString(strings.Repeat("\t", w.depth))
		}
		w.b.WriteString(line)
	}
}

func (w *Writer) write(words []string, end string) {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = Quote(word)
		if i == 0 && strings.HasPrefix(quoted[i], "`") && !strings.ContainsAny(word, `"`) {
			quoted[i] = `"` + word + `"` // caddy fmt takes backquotes at the beginning of a line apart
		}
	}
	line := strings.TrimPrefix(shown.Replace(strings.Join(quoted, " "))+end, " ")
	w.b.WriteString(strings.Repeat("\t", w.depth) + line + "\n")
	if end != "" {
		w.depth++
	}
}

// Env stands for an environment variable in a word until it is written. The marks are taken out of every input by Clean.
func Env(name, otherwise string) string {
	if otherwise != "" {
		name += ":" + otherwise
	}
	return string(envBegins) + name + string(envEnds)
}

const envBegins, envEnds = '\uE000', '\uE001'

var shown = strings.NewReplacer(string(envBegins), "{$", string(envEnds), "}")

// HasEnv says whether a word depends on an environment variable.
func HasEnv(word string) bool { return strings.ContainsRune(word, envBegins) }

// Quote writes a word so that Caddy reads that word.
func Quote(word string) string {
	plain := word != "" && strings.Count(word, "{") == strings.Count(word, "}") && !strings.HasPrefix(word, "#") && !strings.HasPrefix(word, "<<") && !strings.HasSuffix(word, "{") && word != "}" &&
		!strings.ContainsFunc(word, func(r rune) bool { return unicode.IsSpace(r) || r == '"' || r == '`' || r == '\\' })
	switch {
	case plain:
		return word
	case strings.ContainsAny(word, `\'"{}`) && !strings.Contains(word, "`"):
		return "`" + word + "`" // an expression, regular or not, reads best as it is
	default:
		return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`
	}
}

// Quotable says whether Quote can write a word. Between double quotes a backslash stands for itself, but not before a quote.
func Quotable(word string) bool {
	return !strings.Contains(word, `\"`) && (!strings.HasSuffix(word, `\`) || !strings.Contains(word, "`"))
}

// Plain is a text of the input for a place where Caddy replaces placeholders: a brace must not begin one.
func Plain(text string) string {
	return strings.NewReplacer("{", `\{`, "}", `\}`).Replace(text)
}

// Name makes a word of a name, for snippets, matchers and pools.
func Name(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r < 128 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || r == '_' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, name)
	if len(clean) > 100 {
		clean = clean[:100]
	}
	if clean == "" {
		return "unnamed"
	}
	return clean
}

// OneLine makes one line of a text.
func OneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// Clean takes out of an input what no config has: bytes that are no text, and control characters.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || r == '\uFEFF' || r == envBegins || r == envEnds || r == '\u2028' || r == '\u2029') {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
