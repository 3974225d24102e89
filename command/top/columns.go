package top

import (
	"fmt"
	"time"

	"github.com/ballastlb/ballast/command/plain"
)

// column is a column of the table.
type column struct {
	heading string
	right   bool // aligned to the right
	rank    int  // if there is little room, the columns with the highest ranks are left out first; 0 stays
	value   func(r *row, now time.Time) plain.Cell
}

func text(s string) plain.Cell { return plain.Cell{Text: plain.Clean(s)} }

// columns are all columns except the reason, which is the last one and takes the room that is left.
var columns = []column{
	{"BACKEND", false, 0, func(r *row, _ time.Time) plain.Cell { return text(r.backend.Name) }},
	{"STATE", false, 0, func(r *row, _ time.Time) plain.Cell { return plain.Status(r.backend) }},
	{"WEIGHT", true, 3, func(r *row, _ time.Time) plain.Cell { return text(plain.Weight(r.backend)) }},
	{"IN-FLIGHT", true, 1, func(r *row, _ time.Time) plain.Cell { return text(plain.InFlight(r.backend)) }},
	{"REQ/S", true, 1, func(r *row, _ time.Time) plain.Cell { return text(r.rate.String()) }},
	{"ERRORS", true, 2, func(r *row, _ time.Time) plain.Cell { return r.rate.errors() }},
	{"P50", true, 8, func(r *row, _ time.Time) plain.Cell {
		if r.backend.LatencyMs == nil {
			return text(plain.None)
		}
		return text(plain.Milliseconds(r.backend.LatencyMs.P50))
	}},
	{"P99", true, 4, func(r *row, _ time.Time) plain.Cell {
		if r.backend.LatencyMs == nil {
			return text(plain.None)
		}
		return text(plain.Milliseconds(r.backend.LatencyMs.P99))
	}},
	{"RETRIES", true, 9, func(r *row, _ time.Time) plain.Cell { return text(fmt.Sprint(r.backend.Retries)) }},
	{"BREAKER", false, 6, func(r *row, now time.Time) plain.Cell {
		c := text(r.backend.Breaker)
		if r.backend.Breaker != "closed" {
			c.Style = plain.Word(r.backend.Breaker).Style
		}
		if r.backend.Breaker == "open" && r.backend.Until != nil {
			c.Text += " " + plain.Duration(r.backend.Until.Sub(now))
		}
		return c
	}},
	{"CHECK", false, 7, func(r *row, now time.Time) plain.Cell {
		c := r.backend.LastCheck
		if c == nil {
			return text(plain.None)
		}
		cell := text(plain.Checked(c) + ", " + plain.Since(c.Time, now) + " ago")
		if !c.OK {
			cell.Style = plain.Bad
		}
		return cell
	}},
	{"SINCE", true, 5, func(r *row, now time.Time) plain.Cell { return text(plain.Since(r.backend.Since, now)) }},
}

const reasonHeading = "REASON"

func (r rate) String() string {
	if !r.known {
		return plain.None
	}
	return plain.Number(r.requests)
}

func (r rate) errors() plain.Cell {
	switch {
	case !r.known || r.requests == 0:
		return text(plain.None)
	case r.failed == 0:
		return text("0%")
	default:
		return plain.Cell{Text: plain.Number(100*r.failed) + "%", Style: plain.Bad}
	}
}
