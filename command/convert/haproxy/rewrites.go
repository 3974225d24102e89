package haproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

var backReference = regexp.MustCompile(`\\([0-9])`)

func (r *rules) rewrite(d *directive, what string, action []string, f draft.Formula) {
	switch what {
	case "set-path", "set-uri", "set-query":
		text, err := value(at(action, 1))
		if err != nil || what == "set-path" && strings.Contains(text, "?") {
			r.leave(d.line, "the new value is not understood")
			return
		}
		switch {
		case what == "set-query":
			text = "?" + text
		case !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "{path}"):
			r.leave(d.line, "a path begins with /")
			return
		}
		r.add(d.line, f, func(w *draft.Writer, m []string) {
			if len(m) == 0 {
				m = []string{"*"}
			}
			w.Line(draft.Words("rewrite", m, text)...)
		})
	case "replace-path":
		re, to := at(action, 1), at(action, 2)
		// HAProxy replaces the whole path by the new text, even if the pattern matches only a part of it.
		whole := re
		if !strings.HasPrefix(whole, "^") {
			whole = "^.*?(?:" + whole + ")"
		}
		if !strings.HasSuffix(whole, "$") && !strings.HasSuffix(whole, "(.*)") {
			whole += ".*$"
		}
		if _, err := regexp.Compile(whole); err != nil || strings.ContainsAny(whole+to, "`{}%\r\n") || strings.Contains(to, "$") || to == "" || !draft.Quotable(whole) {
			r.leave(d.line, "the pattern cannot be written here")
			return
		}
		to = backReference.ReplaceAllString(to, "$${${1}}")
		to = strings.NewReplacer("${", "$", "}", "").Replace(to)
		r.add(d.line, f, func(w *draft.Writer, m []string) { w.Line(draft.Words("uri", m, "path_regexp", whole, to)...) })
	default:
		r.leave(d.line, "%s is not converted; see uri and request_header", what)
	}
}

// track records the table that counts requests for a slot.
func (r *rules) track(d *directive, what string, action []string, f draft.Formula) {
	if at(action, 1) != "src" {
		r.leave(d.line, "only addresses are counted here; see key of ip_rate_limit")
		return
	}
	name := ""
	if at(action, 2) == "table" {
		name = at(action, 3)
	}
	if f != nil {
		r.leave(d.line, "it counts some requests only; write the condition as the matcher of ip_rate_limit")
		return
	}
	r.tracked[what[len(what)-1:]] = name
	d.line.Done()
}

// limit converts a deny of clients with too many requests.
func (r *rules) limit(d *directive, what string, f draft.Formula, rate *rateTest) {
	d.line.Guards = true
	name, tracked := r.tracked[rate.slot]
	t := r.table
	if name != "" {
		t = r.c.tables[name]
	}
	if !tracked || t == nil || what != "deny" && what != "reject" && what != "tarpit" {
		r.leave(d.line, "no table of this kind counts the requests of addresses; see ip_rate_limit")
		return
	}
	period, ok := duration(t.period)
	if !ok {
		r.leave(d.line, "the period is not understood")
		return
	}
	perSecond := float64(rate.more) / period.Seconds()
	text := rateText(perSecond, rate.more, period.Seconds())
	zone := r.c.zone(draft.Name(r.section.name))
	r.add(d.line, f, func(w *draft.Writer, m []string) {
		w.Open(draft.Words("ip_rate_limit", m)...)
		w.Line("zone", zone)
		w.Line("rate", text)
		w.Line("burst", strconv.Itoa(rate.more))
		if t.size > 0 {
			w.Line("max_keys", strconv.Itoa(t.size))
		}
		w.Close()
	})
	d.line.Near("a client above the rate still gets %s, and HAProxy refuses all its requests; the status is 429; IPv6 clients are counted by their /64", text)
}

// rateText writes a rate of n requests in a number of seconds as a whole number per unit, if possible.
func rateText(perSecond float64, n int, seconds float64) string {
	for _, unit := range []struct {
		name    string
		seconds float64
	}{{"s", 1}, {"m", 60}, {"h", 3600}} {
		if per := float64(n) * unit.seconds / seconds; per == float64(int64(per)) && per >= 1 {
			return fmt.Sprintf("%d/%s", int64(per), unit.name)
		}
	}
	return strconv.FormatFloat(max(perSecond, 0.001), 'f', 3, 64) + "/s"
}
