package haproxy

import (
	"regexp"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// directive is a line of a section.
type directive struct {
	words []string
	line  *draft.Line
}

// word returns the word at an index, "" if there are fewer.
func (d *directive) word(i int) string {
	if i < len(d.words) {
		return d.words[i]
	}
	return ""
}

// after returns the words from an index on.
func (d *directive) after(i int) []string { return d.words[min(i, len(d.words)):] }

// section is a section of a configuration, with the lines of its defaults.
type section struct {
	kind, name string
	line       *draft.Line
	own        []*directive
	defaults   []*directive
}

// all returns the lines that apply to the section, those of the defaults first.
func (s *section) all() []*directive {
	return append(append([]*directive(nil), s.defaults...), s.own...)
}

var kinds = map[string]bool{
	"global": true, "defaults": true, "frontend": true, "backend": true, "listen": true, "resolvers": true, "userlist": true, "peers": true,
	"mailers": true, "program": true, "cache": true, "ring": true, "http-errors": true, "log-forward": true, "fcgi-app": true, "crt-store": true,
	"traces": true, "log-profile": true, "acme": true,
}

// read returns the sections of a configuration.
func read(text string, ledger *draft.Ledger) []*section {
	var sections []*section
	var now *section
	var last *section
	named := map[string]*section{}
	number := 0
	for content := range strings.Lines(text) {
		number++
		words := split(content)
		if len(words) == 0 || strings.HasPrefix(words[0], ".") && len(words[0]) > 1 { // .if and the like
			if len(words) > 0 {
				ledger.Add(number, content).Leave("conditions are not evaluated; all lines inside them are converted")
			}
			continue
		}
		line := ledger.Add(number, draft.OneLine(withoutSecrets(words, content)))
		if !kinds[words[0]] {
			d := &directive{words, line}
			if now == nil {
				line.Leave("it is in no section")
				continue
			}
			now.own = append(now.own, d)
			continue
		}
		now = &section{kind: words[0], line: line}
		if len(words) > 1 {
			now.name = words[1]
		}
		line.Done()
		switch now.kind {
		case "defaults":
			last = now
			named[now.name] = now
		case "frontend", "backend", "listen":
			from := last
			if len(words) > 3 && words[2] == "from" {
				from = named[words[3]]
			}
			if from != nil {
				now.defaults = from.own
			}
			now.own = append(now.own, addressesOf(words, line)...)
		}
		sections = append(sections, now)
	}
	return sections
}

// withoutSecrets returns a line for comments, without passwords, which must not be copied into another file.
func withoutSecrets(words []string, content string) string {
	switch {
	case words[0] == "stats" && len(words) > 2 && words[1] == "auth":
		name, _, _ := strings.Cut(words[2], ":")
		return "stats auth " + name + ":..."
	case words[0] == "user" && len(words) > 3 && strings.HasSuffix(words[2], "password"):
		return "user " + words[1] + " " + words[2] + " ..."
	}
	return content
}

// addressesOf returns the bind that the old syntax has in the line of the section: listen name :80.
func addressesOf(words []string, line *draft.Line) []*directive {
	if len(words) > 2 && words[2] != "from" {
		return []*directive{{words: append([]string{"bind"}, words[2:]...), line: line}}
	}
	return nil
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(?:-([A-Za-z0-9_./:]*))?(\[\*\])?\}|\$([A-Za-z_][A-Za-z0-9_]*)`)

// expand replaces environment variables by their marks.
func expand(text string) string {
	return variable.ReplaceAllStringFunc(text, func(found string) string {
		m := variable.FindStringSubmatch(found)
		return draft.Env(m[1]+m[4], m[2])
	})
}

// split returns the words of a line as HAProxy reads them.
func split(line string) []string {
	var words []string
	var word strings.Builder
	in := false // inside a word
	quote := byte(0)
	var weak strings.Builder // text between double quotes
	end := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	put := func(text string) {
		in = true
		if quote == '"' {
			weak.WriteString(text)
		} else {
			word.WriteString(text)
		}
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				put(string(c))
			}
		case c == '\\' && i+1 < len(line):
			i++
			if next := line[i]; next == 'r' || next == 'n' || next == 't' {
				put(map[byte]string{'r': "\r", 'n': "\n", 't': "\t"}[next])
			} else if strings.IndexByte(` #\"'$`, next) >= 0 {
				put(string(next))
			} else {
				put(`\` + string(next))
			}
		case quote == '"':
			if c == '"' {
				quote = 0
				word.WriteString(expand(weak.String()))
				weak.Reset()
			} else {
				put(string(c))
			}
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == '#':
			end()
			return words
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			end()
		default:
			put(string(c))
		}
	}
	word.WriteString(weak.String())
	end()
	return words
}
