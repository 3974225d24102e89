package plain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// Status describes a backend in one word. Changes by operators take precedence over its breaker, then its health, then the policy's
// judgement.
func Status(b *api.Backend) Cell {
	switch {
	case b.Removing:
		return Cell{"removing", Doubtful}
	case b.State == "drain":
		return Cell{"drain", Doubtful}
	case b.State == "maintenance":
		return Cell{"maint", Doubtful}
	case b.Breaker == "open":
		return Cell{"open", Bad}
	case b.Breaker == "half_open":
		return Cell{"half-open", Doubtful}
	case b.Health == "down":
		return Cell{"down", Bad}
	case !b.Usable:
		return Cell{"out", Bad}
	case b.Avoided != "":
		return Cell{"avoided", Doubtful}
	case b.Backup > 0:
		return Cell{"backup", Good}
	default:
		return Cell{"up", Good}
	}
}

// Word gives a word of the API the style of its meaning.
func Word(word string) Cell {
	switch word {
	case "ok", "up", "ready", "closed":
		return Cell{word, Good}
	case "degraded", "drain", "maintenance", "half_open", "unknown":
		return Cell{word, Doubtful}
	case "panic", "down", "open":
		return Cell{word, Bad}
	default:
		return Cell{Text: word}
	}
}

// State describes a pool in one word. The API's word is about its backends only: all of them may be usable while clients get errors.
func State(p *api.Pool) Cell {
	for _, problem := range p.Problems {
		if p.State == "ok" && problem.Severity == "bad" {
			return Cell{"failing", Bad}
		}
	}
	return Word(p.State)
}

// Problem describes what is wrong with the traffic of a pool.
func Problem(p *api.Pool, problem *api.Problem) Cell {
	cell := Cell{Text: p.Name + " " + problem.What, Style: Doubtful}
	if problem.Backend != "" {
		cell.Text = problem.Backend + " in " + cell.Text
	}
	if problem.Why != "" {
		cell.Text += ": " + problem.Why
	}
	if problem.Severity == "bad" {
		cell.Style = Bad
	}
	return cell
}

// Policy returns the name of a policy as the Caddyfile has it: without the prefix of the load balancer's modules.
func Policy(name string) string { return strings.TrimPrefix(name, "lb_") }

// Why explains a backend's state: why it is not usable or is avoided, who changed what and why, and what ends when.
func Why(b *api.Backend, now time.Time) string {
	var parts []string
	if b.Reason != "" {
		parts = append(parts, b.Reason)
	}
	if c := b.LastCheck; c != nil && !c.OK && c.Error != "" && !strings.Contains(b.Reason, c.Error) {
		parts = append(parts, "last check: "+c.Error)
	}
	if b.Avoided != "" {
		parts = append(parts, "avoided: "+b.Avoided)
	}
	if b.Added != nil {
		parts = append(parts, blame("added", b.Added, now))
	}
	told := false // b.Until was shown
	for _, e := range b.Edits {
		if bytes.Equal(e.Value, e.Config) {
			continue // it equals the config
		}
		what := "set" // set to a state, which is shown
		if e.Field != "state" {
			what = e.Field + " " + Value(e.Value)
			if config := Value(e.Config); config != None {
				what += ", not " + config
			}
		}
		parts = append(parts, blame(what, &e.Mark, now))
		told = told || b.Until != nil && e.Until != nil && e.Until.Equal(*b.Until)
	}
	if b.Until != nil && !told && b.Until.After(now) { // a time in the past is about to change
		parts = append(parts, Left(*b.Until, now))
	}
	return strings.Join(parts, "; ")
}

// blame adds who made the change, why, and when it ends.
func blame(what string, m *api.Mark, now time.Time) string {
	if m.Owner != "" {
		what += " by " + m.Owner
	}
	if m.Reason != "" {
		what += ": " + m.Reason
	}
	if m.Until != nil {
		what += " (" + Left(*m.Until, now) + ")"
	}
	return what
}

// Left returns the time left until t.
func Left(t, now time.Time) string { return Duration(t.Sub(now)) + " left" }

// Weight formats a backend's weight, and the effective weight if that differs.
func Weight(b *api.Backend) string {
	if b.EffectiveWeight == float64(b.Weight) {
		return fmt.Sprint(b.Weight)
	}
	return fmt.Sprintf("%s/%d", Number(b.EffectiveWeight), b.Weight)
}

// InFlight formats the number of requests in flight, and their limit.
func InFlight(b *api.Backend) string {
	most := max(int(b.MaxRequests), 0)
	if b.Limit > 0 {
		most = b.Limit // measured
	}
	if most == 0 {
		return fmt.Sprint(b.InFlight)
	}
	return fmt.Sprintf("%d/%d", b.InFlight, most)
}

// Checked formats the result of the last active check.
func Checked(c *api.Check) string {
	switch {
	case c == nil:
		return None
	case !c.OK:
		return "failed"
	case c.Code != 0:
		return fmt.Sprintf("%d in %s", c.Code, Milliseconds(c.Ms))
	default:
		return "ok in " + Milliseconds(c.Ms)
	}
}

// Value formats a JSON value for people: a string without its quotes, "" for null.
func Value(v json.RawMessage) string {
	var s string
	switch {
	case len(v) == 0 || bytes.Equal(v, []byte("null")):
		return None
	case json.Unmarshal(v, &s) == nil:
		return s
	default:
		return string(v)
	}
}
