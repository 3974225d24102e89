package haproxy

import (
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// writeBody writes the content of a site.
func (f *frontend) writeBody(w *draft.Writer) {
	if f.log {
		w.Line("log")
	}
	if f.encode != nil {
		w.Line(append([]string{"encode"}, f.encode...)...)
	}
	for _, d := range f.errors {
		w.Open("handle_errors", d.word(1))
		code := "302"
		if d.word(0) == "errorloc303" {
			code = "303"
		}
		w.Line(draft.Words("redir", nil, d.word(2), code)...)
		w.Close()
	}
	last := new(draft.Writer)
	f.writeDefault(last)
	if len(f.rules.steps) == 0 && len(f.uses) == 0 && f.stats == nil {
		w.Add(last.String())
		return
	}
	w.Open("route")
	f.rules.write(w)
	f.writeStats(w) // after the rules, because HAProxy refuses clients first
	names := map[string]bool{}
	for _, use := range f.uses {
		w.Comment(f.c.ledger.Comments(use.line)...)
		if use.matcher == "" {
			continue
		}
		b := f.c.backends[use.matcher]
		if use.formula == nil {
			w.Open("handle")
		} else {
			name := "@to_" + strings.ReplaceAll(draft.Name(use.matcher), ".", "_")
			for names[name] {
				name += "_"
			}
			names[name] = true
			f.c.writeMatcher(w, name, use.formula)
			w.Open("handle", name)
		}
		f.c.writeImport(w, b)
		w.Close()
	}
	if len(f.uses) > 0 {
		w.Open("handle")
		w.Add(last.String())
		w.Close()
	} else {
		w.Add(last.String())
	}
	w.Close()
}

// writeDefault writes the answer to requests that no rule has handled.
func (f *frontend) writeDefault(w *draft.Writer) {
	if d := f.standard; d != nil {
		if b := f.c.backends[d.word(1)]; b != nil {
			f.c.writeImport(w, b)
			return
		}
		d.line.Leave("there is no backend %s in mode http", d.word(1))
		w.Line("respond", "503")
		return
	}
	if f.pool != nil && len(f.pool.servers) > 0 {
		f.pool.writePool(w)
		return
	}
	if f.stats != nil {
		w.Line("respond", "403")
		return
	}
	w.Line("respond", "503")
}

// writeStats writes the dashboard in place of HAProxy's statistics page, for private addresses only. If the page had a login, the dashboard
// refuses all: a proxy in front, or a frontend that passes the page on, would have a private address.
func (f *frontend) writeStats(w *draft.Writer) {
	if f.stats == nil {
		return
	}
	name := "@stats"
	w.Open(name)
	if f.stats.uri != "/" {
		w.Line("path", f.stats.uri, strings.TrimSuffix(f.stats.uri, "/")+"/*")
	}
	w.Line("remote_ip", "private_ranges")
	w.Close()
	w.Open("handle", name)
	if f.stats.closed {
		w.Open("route")
		w.Line("respond", "403")
		w.Line("load_balancer_dashboard")
		w.Close()
	} else {
		w.Line("load_balancer_dashboard")
	}
	w.Close()
}
