package plain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// Status is what a backend is in one word: what people did to it comes first, then its breaker, then its health, then what the policy
// makes of it.
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

// Word sets a word of the API off by what it means.
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

// State is what a pool is in one word. The API's word is about its backends: all of them may be fit, and the pool fail.
func State(p *api.Pool) Cell {
	for _, problem := range p.Problems {
		if p.State == "ok" && problem.Severity == "bad" {
			return Cell{"failing", Bad}
		}
	}
	return Word(p.State)
}

// Problem is a sentence that says what is wrong with the traffic of a pool.
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

// Why tells why a backend is as it is: why it is not usable, or is avoided, who changed what and why, and what ends when.
func Why(b *api.Backend, now time.Time) string {
	var parts []string
	if b.Reason != "" {
		parts = append(parts, b.Reason)
	}
	if b.Avoided != "" {
		parts = append(parts, "avoided: "+b.Avoided)
	}
	if b.Added != nil {
		parts = append(parts, blame("added", b.Added, now))
	}
	told := false // when b.Until is
	for _, e := range b.Edits {
		if bytes.Equal(e.Value, e.Config) {
			continue // it says what the config says
		}
		what := "set" // to a state, which shows
		if e.Field != "state" {
			what = e.Field + " " + Value(e.Value)
			if config := Value(e.Config); config != None {
				what += ", not " + config
			}
		}
		parts = append(parts, blame(what, &e.Mark, now))
		told = told || b.Until != nil && e.Until != nil && e.Until.Equal(*b.Until)
	}
	if b.Until != nil && !told {
		parts = append(parts, Left(*b.Until, now))
	}
	return strings.Join(parts, "; ")
}

// blame adds who did it, why, and when it ends.
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

// Left is how long it is until t.
func Left(t, now time.Time) string { return Duration(t.Sub(now)) + " left" }

// Weight writes a backend's weight, and the part of it that counts now if that is another one.
func Weight(b *api.Backend) string {
	if b.EffectiveWeight == float64(b.Weight) {
		return fmt.Sprint(b.Weight)
	}
	return fmt.Sprintf("%s/%d", Number(b.EffectiveWeight), b.Weight)
}

// InFlight writes how many requests are in flight, and of how many that may be.
func InFlight(b *api.Backend) string {
	most := max(int(b.MaxRequests), 0)
	if b.Limit > 0 {
		most = b.Limit // found out
	}
	if most == 0 {
		return fmt.Sprint(b.InFlight)
	}
	return fmt.Sprintf("%d/%d", b.InFlight, most)
}

// Checked writes what the last active check found.
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

// Value writes a JSON value as people would: a string without its quotes, nothing for null.
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
