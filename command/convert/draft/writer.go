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

// String returns the text written so far.
func (w *Writer) String() string { return w.b.String() }

// Len returns the length of the text written so far.
func (w *Writer) Len() int { return w.b.Len() }

// Line writes a directive, quoting its words.
func (w *Writer) Line(words ...string) { w.write(words, "") }

// Open begins the block of a directive.
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

// Add writes the text of another writer, indented to this depth.
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
			quoted[i] = `"` + word + `"` // caddy fmt breaks backquotes at the beginning of a line
		}
	}
	line := strings.TrimPrefix(shown.Replace(strings.Join(quoted, " "))+end, " ")
	w.b.WriteString(strings.Repeat("\t", w.depth) + line + "\n")
	if end != "" {
		w.depth++
	}
}

// Env returns a mark for an environment variable in a word, which is replaced when the word is written. Clean removes such marks from the
// input.
func Env(name, otherwise string) string {
	if otherwise != "" {
		name += ":" + otherwise
	}
	return string(envBegins) + name + string(envEnds)
}

const envBegins, envEnds = '\uE000', '\uE001'

var shown = strings.NewReplacer(string(envBegins), "{$", string(envEnds), "}")

// HasEnv reports whether a word contains an environment variable.
func HasEnv(word string) bool { return strings.ContainsRune(word, envBegins) }

// Quote quotes a word, if needed, so that Caddy reads it unchanged.
func Quote(word string) string {
	plain := word != "" && strings.Count(word, "{") == strings.Count(word, "}") && !strings.HasPrefix(word, "#") && !strings.HasPrefix(word, "<<") && !strings.HasSuffix(word, "{") && word != "}" &&
		!strings.ContainsFunc(word, func(r rune) bool { return unicode.IsSpace(r) || r == '"' || r == '`' || r == '\\' })
	switch {
	case plain:
		return word
	case strings.ContainsAny(word, `\'"{}`) && !strings.Contains(word, "`"):
		return "`" + word + "`" // expressions are easier to read without escapes
	default:
		return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`
	}
}

// Quotable reports whether Quote can quote a word. Between double quotes, a backslash stands for itself, except before a quote.
func Quotable(word string) bool {
	return !strings.Contains(word, `\"`) && (!strings.HasSuffix(word, `\`) || !strings.Contains(word, "`"))
}

// Plain returns a text for a place where Caddy replaces placeholders, with its braces escaped.
func Plain(text string) string {
	return strings.NewReplacer("{", `\{`, "}", `\}`).Replace(text)
}

// Name turns a name into a word, for snippets, matchers and pools.
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

// OneLine joins the lines of a text, with single spaces between its words.
func OneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

// Clean removes control characters and the marks of Env from an input, and replaces invalid UTF-8.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || r == '\uFEFF' || r == envBegins || r == envEnds || r == '\u2028' || r == '\u2029') {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
