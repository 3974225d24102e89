package app

import (
	"fmt"
	"sync"
	"testing"
)

// Reasons are bounded, and none is lost when many come at once.
func TestExpressCountsAreBounded(t *testing.T) {
	var c ExpressCounts
	var all sync.WaitGroup
	const workers, words = 4, 2 * mostReasons
	for range workers {
		all.Go(func() {
			for i := range words {
				c.HandOver(fmt.Sprint(i))
				c.Serve()
			}
		})
	}
	all.Wait()
	var total uint64
	reasons := c.reasons()
	for _, n := range reasons {
		total += n
	}
	if total != workers*words || c.served.Load() != workers*words {
		t.Errorf("%d handed over, %d served, want %d each", total, c.served.Load(), workers*words)
	}
	if len(reasons) > mostReasons+1 || reasons["other"] < workers*(words-mostReasons-1) {
		t.Errorf("%d reasons, %d others", len(reasons), reasons["other"])
	}
}

func TestExpressCountsAllocateNothing(t *testing.T) {
	var c ExpressCounts
	c.HandOver("upgrade")
	if n := testing.AllocsPerRun(100, func() {
		c.Serve()
		c.HandOver("upgrade")
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
