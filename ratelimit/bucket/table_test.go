package bucket

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a clock that tests set.
type clock struct{ atomic.Int64 }

func (c *clock) now() time.Time           { return time.Unix(1_000_000_000, c.Load()) }
func (c *clock) advance(by time.Duration) { c.Add(int64(by)) }

func address(i int) Key {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	return AddressKey(netip.PrefixFrom(a, 32), 1)
}

// take charges one request to a key and drops the grant.
func take(t *Table, k Key) bool {
	_, d := t.Take([]Key{k}, "")
	return d.Allowed()
}

func admitted(t *Table, k Key, asked int) int {
	n := 0
	for range asked {
		if take(t, k) {
			n++
		}
	}
	return n
}

// tiers returns the keys of an IPv6 client.
var tiers = []Key{
	AddressKey(netip.MustParsePrefix("2001:db8::/64"), 1), AddressKey(netip.MustParsePrefix("2001:db8::/56"), 4), AddressKey(netip.MustParsePrefix("2001:db8::/48"), 16),
}

// A request reads the clock once, however many keys it is charged to, and also if there is no room for some of them.
func TestTakeLooksOnceAtTheClock(t *testing.T) {
	for _, most := range []int{1000, 1} {
		looks := 0
		table := New(Limits{Rate: 1, Burst: 1000, Concurrency: 1000}, most, func() time.Time {
			looks++
			return time.Unix(1_000_000_000, 0)
		})
		for range 3 {
			looks = 0
			if _, d := table.Take(tiers, ""); !d.Allowed() || d.Overflow != (most == 1) || looks != 1 {
				t.Errorf("%d keys at most: %d looks at the clock, want 1; %+v", most, looks, d)
			}
		}
	}
}

func TestRateAndBurst(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 100, Burst: 200}, 1000, c.now)
	k := address(1)
	for i, step := range []struct {
		after time.Duration
		want  int
	}{
		{0, 200},
		{0, 0},
		{9 * time.Millisecond, 0},
		{time.Millisecond, 1},
		{500 * time.Millisecond, 50},
		{time.Hour, 200},
		{-time.Hour, 0}, // time does not run backwards
		{time.Hour + 10*time.Millisecond, 1},
	} {
		c.advance(step.after)
		if got := admitted(table, k, 300); got != step.want {
			t.Errorf("step %d: %d of 300 admitted, want %d", i, got, step.want)
		}
	}
	if got := admitted(table, address(2), 300); got != 200 {
		t.Errorf("%d of another key's 300 admitted, want 200", got)
	}
}

func TestWaitIsExact(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 0.5, Burst: 2}, 10, c.now)
	admitted(table, address(1), 2)
	_, d := table.Take([]Key{address(1)}, "")
	if d.Allowed() || d.Cause != Rate || d.Wait != 2*time.Second || d.Key != address(1) {
		t.Fatalf("got %+v, want a wait of 2s", d)
	}
	c.advance(d.Wait - 1)
	if take(table, address(1)) {
		t.Error("admitted before the wait was over")
	}
	c.advance(1)
	if !take(table, address(1)) {
		t.Error("refused after the wait")
	}
}

// Many goroutines charge one key, with a clock that they all move back and forth.
func TestConcurrentTakesOfOneKey(t *testing.T) {
	const rate, burst = 1000, 50
	var latest atomic.Int64
	base := time.Unix(1_000_000_000, 0)
	toAndFro := func() time.Time {
		now := latest.Add(int64(time.Microsecond))
		return base.Add(time.Duration(now) - time.Duration(rand.Int64N(int64(time.Hour))))
	}
	table := New(Limits{Rate: rate, Burst: burst}, 1000, toAndFro)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() { passed.Add(int64(admitted(table, address(1), 3_000))) })
	}
	wg.Wait()
	// The time can have advanced by the hour that the first reading may have been behind, and by what followed.
	most := burst + rate*(time.Hour+time.Duration(latest.Load())).Seconds()
	if got := float64(passed.Load()); got > most || got < burst {
		t.Errorf("%v admitted, want at most %v", got, most)
	}

	// With a clock that only runs forward the count is exact.
	c := new(tickingClock)
	table = New(Limits{Rate: rate, Burst: burst}, 1000, c.now)
	passed.Store(0)
	for range 64 {
		wg.Go(func() { passed.Add(int64(admitted(table, address(1), 3_000))) })
	}
	wg.Wait()
	want := burst + rate*time.Duration(c.Load()).Seconds()
	if got := float64(passed.Load()); got > want || got < want-2 {
		t.Errorf("%v admitted, want %v", got, want)
	}
}

// tickingClock advances by a microsecond each time it is read.
type tickingClock struct{ atomic.Int64 }

func (c *tickingClock) now() time.Time {
	return time.Unix(1_000_000_000, c.Add(int64(time.Microsecond)))
}

// A clock that jumps back and forth grants no extra tokens: not even for the second that it is ahead every other time.
func TestClockToAndFro(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 10, Burst: 10}, 10, c.now)
	got := 0
	for i := range 1000 {
		got += admitted(table, address(1), 1)
		c.advance(time.Duration(1-i%2*2) * time.Second)
	}
	if got > 20 { // the burst, and the tokens of the second before the first reading
		t.Errorf("%d of 1000 admitted, want at most 20", got)
	}
}

// Keys are found in the right shard while the table is resized concurrently.
func TestResizeWhileInUse(t *testing.T) {
	const burst = 1000
	c := new(clock)
	table := New(Limits{Rate: 1e-6, Burst: burst, Concurrency: 1 << 20}, 1000, c.now)
	var passed atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				g, d := table.Take([]Key{address(1)}, "")
				if d.Allowed() {
					passed.Add(1)
				}
				g.Release()
			}
		})
	}
	for i := range 2000 {
		table.Configure(Limits{Rate: 1e-6, Burst: burst, Concurrency: 1 << 20}, 1000+i%2*100_000)
		table.Sweep()
	}
	for passed.Load() < burst {
		runtime.Gosched()
	}
	stop.Store(true)
	wg.Wait()
	if u, _ := table.Look(address(1)); passed.Load() != burst || u.InFlight != 0 {
		t.Errorf("%d admitted, %d in flight, want %d and none", passed.Load(), u.InFlight, burst)
	}
}

func TestConcurrency(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 5, Concurrency: 2}, 10, c.now)
	k := []Key{address(1)}
	a, d1 := table.Take(k, "")
	b, d2 := table.Take(k, "")
	_, d3 := table.Take(k, "")
	if !d1.Allowed() || !d2.Allowed() || d3.Cause != Concurrency {
		t.Fatalf("got %+v, %+v, %+v, want the third refused", d1, d2, d3)
	}
	a.Release()
	a.Release() // as if there had been no request
	if got := admitted(table, k[0], 2); got != 1 {
		t.Errorf("%d admitted after one was over, want 1", got)
	}
	b.Release()
	if got := admitted(table, k[0], 9); got != 1 {
		t.Errorf("%d admitted after another was over, want 1", got)
	}
	// Refusals for concurrency have taken no tokens: four of five are gone.
	if u, _ := table.Look(k[0]); u.Tokens != 1 || u.InFlight != 2 || u.Requests != 14 {
		t.Errorf("got %+v", u)
	}
}

func TestRefusedByOneIsChargedToNone(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 2, Concurrency: 100}, 100, c.now)
	near := func(i int) Key {
		return AddressKey(netip.MustParsePrefix(fmt.Sprintf("2001:db8:0:%x::/64", i)), 1)
	}
	far := AddressKey(netip.MustParsePrefix("2001:db8::/56"), 4)
	for i := range 8 {
		if _, d := table.Take([]Key{near(i), far}, ""); !d.Allowed() {
			t.Fatalf("request %d refused: %+v", i, d)
		}
	}
	_, d := table.Take([]Key{near(9), far}, "")
	if d.Allowed() || d.Key != far {
		t.Fatalf("got %+v, want it refused by %v", d, far)
	}
	if u, ok := table.Look(near(9)); !ok || u.Tokens != 2 || u.InFlight != 0 {
		t.Errorf("it was charged to the first of its keys: %+v", u)
	}
	if u, _ := table.Look(far); u.Tokens != 0 || u.InFlight != 8 || u.Limits != (Limits{Rate: 4, Burst: 8, Concurrency: 400}) {
		t.Errorf("got %+v", u)
	}
}

func TestRefund(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 3, Concurrency: 1}, 10, c.now)
	g, _ := table.Take([]Key{address(1)}, "")
	g.Refund()
	g.Refund()
	if u, _ := table.Look(address(1)); u.Tokens != 3 || u.InFlight != 0 {
		t.Errorf("after a refund: %+v", u)
	}
}

func TestHold(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 100, Burst: 100}, 10, c.now)
	table.Hold(address(1), time.Second) // no effect: the table has no entry for it
	if !take(table, address(1)) {
		t.Fatal("refused")
	}
	table.Hold(address(1), time.Second)
	if _, d := table.Take([]Key{address(1)}, ""); d.Cause != Rate || d.Wait != time.Second {
		t.Errorf("got %+v, want a wait of 1s", d)
	}
	c.advance(time.Second)
	if !take(table, address(1)) {
		t.Error("refused after it was held")
	}
	// A hold of an earlier config does not apply to this one.
	table.Hold(address(1), time.Hour)
	table.Configure(Limits{Rate: 100, Burst: 100}, 10)
	if !take(table, address(1)) {
		t.Error("refused by a config that is gone")
	}
}

// A request whose rate was checked elsewhere is counted among those in flight, and takes no token.
func TestTakeInFlight(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 1, Concurrency: 2}, 10, c.now)
	k := []Key{address(1)}
	take(table, k[0])
	table.Hold(k[0], time.Hour)
	g, d := table.TakeInFlight(k, "")
	if !d.Allowed() {
		t.Fatalf("got %+v, want it counted although there is no token", d)
	}
	if _, d := table.TakeInFlight(k, ""); d.Cause != Concurrency {
		t.Errorf("got %+v, want it refused as the third", d)
	}
	g.Refund()
	if u, _ := table.Look(k[0]); u.InFlight != 1 || u.Tokens != 0 {
		t.Errorf("after a refund: %+v, want one in flight and no token", u)
	}
	table.Forget(k[0])
	if u, _ := table.Look(k[0]); u.Tokens != 1 {
		t.Errorf("%v tokens, want 1: none was taken and none came back", u.Tokens)
	}
}

// A request that ends makes room, even if the hand was about to find that all entries owe.
func TestRoomBehindTheHand(t *testing.T) {
	c := new(clock)
	const size = 511 // more entries in one shard than are looked at for one new key
	table := New(Limits{Concurrency: 1}, size, c.now)
	grants := make([]Grant, size)
	for i := range grants {
		grants[i], _ = table.Take([]Key{address(i)}, "")
	}
	if _, d := table.Take([]Key{address(1000)}, ""); !d.Overflow {
		t.Fatalf("got %+v, want no room", d)
	}
	grants[3].Release()
	found := false
	for i := range 3 { // two times the looks of a new key reach all entries
		_, d := table.Take([]Key{address(2000 + i)}, "")
		found = found || !d.Overflow
	}
	if !found {
		t.Error("the slot that became free is not found")
	}
}

func TestText(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 1}, 10, c.now)
	long := fmt.Sprintf("%01000d", 1)
	for _, text := range []string{"", "alice", long} {
		k := TextKey(text, 1)
		table.Take([]Key{k}, text)
		u, ok := table.Look(k)
		if !ok {
			t.Fatalf("%q is not there", text)
		}
		if text == "alice" {
			if u.Name != text {
				t.Errorf("name %q, want %q", u.Name, text)
			}
			continue
		}
		if again, ok := ParseHash(u.Name, 1); !ok || again != k {
			t.Errorf("%q: name %q does not lead back", text, u.Name)
		}
	}
	if TextKey("a", 1) == TextKey("b", 1) {
		t.Error("two texts, one key")
	}
	for _, name := range []string{"alice", "sha256:", "sha256:zz", "sha256:00"} {
		if _, ok := ParseHash(name, 1); ok {
			t.Errorf("%q taken for a hash", name)
		}
	}
}

func TestKeyString(t *testing.T) {
	for _, name := range []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::1", "2001:db8::/64", "::/0", "0.0.0.0/0"} {
		p, err := netip.ParsePrefix(name)
		if err != nil {
			a := netip.MustParseAddr(name)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if got := AddressKey(p, 1).String(); got != name {
			t.Errorf("got %s, want %s", got, name)
		}
	}
	if got := (Key{}).String(); got != "unknown" {
		t.Errorf("the zero key is %s", got)
	}
}

func TestFullBucketsLeaveFirst(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 10}, 8, c.now)
	for i := range 8 {
		take(table, address(i))
	}
	admitted(table, address(0), 20)    // in deficit
	c.advance(1100 * time.Millisecond) // all others are full
	admitted(table, address(0), 20)    // still in deficit
	for i := 1; i < 8; i++ {
		if i != 5 {
			take(table, address(i)) // not full any more
		}
	}
	if !take(table, address(100)) {
		t.Fatal("a newcomer was refused")
	}
	if _, ok := table.Look(address(5)); ok {
		t.Error("the full bucket is still there")
	}
	for i := range 8 {
		if _, ok := table.Look(address(i)); !ok && i != 5 {
			t.Errorf("%d has left, and was not full", i)
		}
	}
	if n := table.Evictions(); n != 1 {
		t.Errorf("%d evictions, want 1", n)
	}
}

func TestDebtorsStay(t *testing.T) {
	c := new(clock)
	const size = 4096
	table := New(Limits{Rate: 1.0 / 60, Burst: 3}, size, c.now)
	debtor := address(0)
	if got := admitted(table, debtor, 10); got != 3 {
		t.Fatalf("%d admitted, want 3", got)
	}
	// Many other keys, each used once: they have two tokens left and are dropped for one another.
	for i := 1; i < 200_000; i++ {
		c.advance(300 * time.Microsecond)
		if !take(table, address(i)) {
			t.Fatalf("newcomer %d refused", i)
		}
		if i%1000 == 0 && take(table, debtor) { // its next token is due after 60 s
			t.Fatalf("the debtor was admitted after %d others", i)
		}
	}
	if n := table.Keys(); n > size {
		t.Errorf("%d keys, want at most %d", n, size)
	}
	if n := table.Evictions(); n < 200_000-size-1 {
		t.Errorf("%d evictions", n)
	}
}

func TestOverflowIsShared(t *testing.T) {
	c := new(clock)
	const size = 100
	table := New(Limits{Rate: 1, Burst: 2}, size, c.now)
	for i := range size {
		admitted(table, address(i), 3)
	}
	passed, spilled := 0, 0
	for i := range 50 {
		_, d := table.Take([]Key{address(1000 + i)}, "")
		if d.Allowed() {
			passed++
		}
		if d.Overflow {
			spilled++
		}
	}
	if passed != 2 || spilled != 50 {
		t.Errorf("%d newcomers passed, %d by the shared bucket, want 2 and 50", passed, spilled)
	}
	if n := table.Evictions(); n != 0 {
		t.Errorf("%d evictions of debtors", n)
	}
	c.advance(time.Second) // each has a token
	if !take(table, address(2000)) || table.Evictions() != 1 {
		t.Error("a newcomer finds no room although nobody owes any more")
	}

}

// A request with several keys is charged once to the shared bucket.
func TestOverflowOfSeveralKeys(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 1, Concurrency: 9}, 1, c.now)
	take(table, address(1))
	g, d := table.Take([]Key{address(2), address(3), address(4)}, "")
	if !d.Allowed() || !d.Overflow {
		t.Fatalf("got %+v, want it admitted by the shared bucket", d)
	}
	if take(table, address(5)) {
		t.Error("the shared bucket has a second token")
	}
	g.Refund()
	if !take(table, address(5)) {
		t.Error("the shared bucket was not given its token back")
	}
}

// Entries with requests in flight are not evicted, and a request that ends makes room.
func TestBusyKeysStay(t *testing.T) {
	c := new(clock)
	table := New(Limits{Concurrency: 1}, 2, c.now)
	a, _ := table.Take([]Key{address(1)}, "")
	table.Take([]Key{address(2)}, "")
	_, first := table.Take([]Key{address(3)}, "")
	_, second := table.Take([]Key{address(4)}, "")
	if !first.Allowed() || !first.Overflow || second.Allowed() {
		t.Fatalf("got %+v and %+v, want one place in the shared bucket", first, second)
	}
	a.Release()
	_, third := table.Take([]Key{address(5)}, "")
	if !third.Allowed() || third.Overflow {
		t.Errorf("got %+v, want the place of the key that is free", third)
	}
}

func TestConfigureKeepsProportion(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 10, Burst: 100}, 100, c.now)
	admitted(table, address(1), 75)
	admitted(table, address(2), 100)
	table.Configure(Limits{Rate: 20, Burst: 40, Concurrency: 5}, 100)
	for i, want := range map[int]float64{1: 10, 2: 0} {
		if u, _ := table.Look(address(i)); u.Tokens < want-1e-6 || u.Tokens > want+1e-6 || u.Limits.Rate != 20 {
			t.Errorf("key %d: %+v, want %v tokens", i, u, want)
		}
	}
	c.advance(time.Second)
	if u, _ := table.Look(address(2)); u.Tokens < 20-1e-6 || u.Tokens > 20+1e-6 {
		t.Errorf("%v tokens after a second, want 20", u.Tokens)
	}
	// Without a limit of the rate, and back.
	table.Configure(Limits{Concurrency: 5}, 100)
	table.Configure(Limits{Rate: 1, Burst: 7}, 100)
	if got := admitted(table, address(2), 20); got != 7 {
		t.Errorf("%d admitted, want a full bucket of 7", got)
	}
}

func TestResizeKeepsBuckets(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 2, Concurrency: 3}, 100, c.now)
	g, _ := table.Take([]Key{address(1)}, "")
	for i := 2; i < 100; i++ {
		admitted(table, address(i), i%3)
	}
	table.Configure(Limits{Rate: 1, Burst: 2, Concurrency: 3}, 1<<17)
	if n := table.Keys(); n < 60 {
		t.Errorf("%d keys left", n)
	}
	g.Release()
	if u, _ := table.Look(address(1)); u.InFlight != 0 || u.Tokens != 1 {
		t.Errorf("got %+v", u)
	}
	if take(table, address(2)); take(table, address(2)) {
		t.Error("an empty bucket was filled by the move")
	}
	table.Configure(Limits{Rate: 1, Burst: 2, Concurrency: 3}, 5)
	if n := table.Keys(); n != 5 {
		t.Errorf("%d keys, want 5", n)
	}
	if n := table.Evictions(); n < 50 {
		t.Errorf("%d evictions", n)
	}
}

func TestForget(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 2}, 100, c.now)
	if table.Forget(address(1)) {
		t.Error("forgot a key that was not there")
	}
	admitted(table, address(1), 5)
	table.Hold(address(1), time.Hour)
	if !table.Forget(address(1)) || admitted(table, address(1), 5) != 2 {
		t.Error("the key was not forgotten")
	}
	admitted(table, address(2), 5)
	if n := table.ForgetAll(); n != 2 {
		t.Errorf("%d keys forgotten, want 2", n)
	}
	if admitted(table, address(2), 5) != 2 {
		t.Error("the key was not forgotten")
	}
}

func TestBusiest(t *testing.T) {
	c := new(clock)
	table := New(Limits{Rate: 1, Burst: 10}, 100_000, c.now)
	for i := range 1000 {
		admitted(table, address(i), 1+i%50)
	}
	busiest := table.Busiest(30)
	if len(busiest) != 30 || busiest[0].Requests != 50 || busiest[0].Refused != 40 || busiest[29].Requests != 49 {
		t.Errorf("got %+v", busiest)
	}
	table.Sweep()
	if u := table.Busiest(1)[0]; u.Requests != 25 || u.Refused != 20 {
		t.Errorf("after a sweep: %+v", u)
	}
	if n := len(table.Busiest(0)); n != 0 {
		t.Errorf("asked for none, got %d", n)
	}
}

// TestMemory checks the bound of 64 MB at the default size, with the longest texts that are kept, and that the memory is freed.
func TestMemory(t *testing.T) {
	const keys, bound = 262144, 64_000_000
	c := new(clock)
	before := heapInUse()
	table := New(Limits{Rate: 1.0 / 60, Burst: 1, Concurrency: 1}, keys, c.now)
	for i := range keys * 5 / 4 {
		text := fmt.Sprintf("%0*d", maxText, i)
		g, _ := table.Take([]Key{TextKey(text, 1)}, text)
		g.Release()
	}
	if n := table.Keys(); n != keys {
		t.Errorf("%d keys, want %d", n, keys)
	}
	if used := heapInUse() - before; used > bound {
		t.Errorf("%d bytes, want at most %d", used, bound)
	} else {
		t.Logf("%d bytes, %d a key", used, used/keys)
	}
	c.advance(2 * time.Minute)
	table.Sweep()
	if used := heapInUse() - before; used > bound/100 {
		t.Errorf("%d bytes when idle", used)
	}
	if n := table.Keys(); n != 0 {
		t.Errorf("%d keys when idle", n)
	}
	runtime.KeepAlive(table)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestTakeAllocatesNothing(t *testing.T) {
	table := New(Limits{Rate: 1000, Burst: 10, Concurrency: 5}, 1000, time.Now)
	keys := []Key{address(1), address(2), address(3)}
	if n := testing.AllocsPerRun(1000, func() {
		g, _ := table.Take(keys, "")
		g.Release()
	}); n != 0 {
		t.Errorf("%v allocations a decision, want 0", n)
	}
}
