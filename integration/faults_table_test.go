//go:build trust && linux

package integration

import (
	"flag"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// ours is the contender that is judged.
const ours = "load_balancer"

// tableRate is the load of a proxy in requests per second; all contenders have theirs at the same time, and a third of each is POST.
var tableRate = flag.Int("fault-rate", 500, "requests per second for each proxy in TestFaultTable; fewer for a machine that has other things to do")

// contender is a proxy that the faults are put upon. All see the same at the same time, each with backends of its own, unless what one of them
// makes of the fault is a load on the machine.
type contender struct {
	name  string
	ours  bool
	eager bool // it is compared only where what has been sent is sent again
	// start starts it in front of these backends. Settings are those of ours.
	start func(t *testing.T, settings string, backends []string) (site string, c *caddy)
}

var contenders = []contender{
	{name: ours, ours: true, start: func(t *testing.T, settings string, backends []string) (string, *caddy) {
		c := startCaddy(t, "load_balancer "+strings.Join(backends, " ")+" {\n name p\n"+settings+"\n}")
		return c.site, c
	}},
	{name: "reverse_proxy", start: startStock("")},
	{name: "reverse_proxy, lb_try_duration 5s", start: startStock("lb_try_duration 5s")},
	{name: "HAProxy", start: func(t *testing.T, _ string, backends []string) (string, *caddy) {
		site, _ := startHAProxyWith(t, haproxyWords{server: "check"}, backends...)
		return site, nil
	}},
	{name: "HAProxy, retry-on all-retryable-errors", eager: true, start: func(t *testing.T, _ string, backends []string) (string, *caddy) {
		site, _ := startHAProxyWith(t, haproxyWords{site: "retry-on all-retryable-errors", server: "check"}, backends...)
		return site, nil
	}},
}

// startStock starts a Caddy that knows nothing of ours.
func startStock(settings string) func(*testing.T, string, []string) (string, *caddy) {
	return func(t *testing.T, _ string, backends []string) (string, *caddy) {
		site := "reverse_proxy " + strings.Join(backends, " ") + " {\n" + settings + "\n}"
		return startCaddyConfig(t, strings.Replace(siteConfig(site), seamless, "", 1)).site, nil
	}
}

// faultScenario is a fault, and what is expected of ours.
type faultScenario struct {
	name     string
	bar      string // what judge checks
	settings string // of ours
	members  int    // default 3
	rate     int    // default *tableRate
	eager    bool   // compare with what sends again what has been sent
	inTurn   bool   // contenders run one after the other
	// happens is what is done under load.
	happens func(x *trial)
	// judge returns what is wrong.
	judge func(x *trial) wants
}

// trial is a scenario with one contender.
type trial struct {
	*testing.T
	contender
	faultScenario
	caddy   *caddy   // nil if it is another proxy, or not ours
	watched *watched // it
	members []*member
	site    string

	began time.Time // when the first request was due
	fault time.Time // when the fault began: what was due before is not judged
	back  time.Time // when it was over; zero if there is nothing to recover from

	sent, lost, passed, twice [2]int // GET and POST: no answer of a backend; a backend's 5xx; received by backends more than once
	summary                   *openloop.Summary
	calm                      time.Duration // p99 before the fault: what the machine does to all
	even                      time.Duration // from the recovery on until shares were even; negative if they never were
	notes                     []string

	// What some scenarios measure.
	attempts, asked, dials int
	share, largest         float64
	refusing               [2]time.Time
}

// methodOf is 0 for a GET and 1 for a POST, by the number of the request.
func methodOf(n int) int {
	// Not in turn: with three backends in turn, one would be given nothing but POST.
	if uint32(n)*2654435761>>16%3 == 0 {
		return 1
	}
	return 0
}

// run puts the scenario's load and fault upon the contender.
func (x *trial) run() {
	if x.faultScenario.members == 0 {
		x.faultScenario.members = 3
	}
	if x.rate == 0 {
		x.rate = *tableRate
	}
	addresses := make([]string, x.faultScenario.members)
	x.members = make([]*member, x.faultScenario.members)
	for i := range addresses {
		x.members[i] = startMember(x.T)
		addresses[i] = x.members[i].addr
	}
	x.site, x.caddy = x.start(x.T, x.settings, addresses)
	if x.caddy != nil {
		x.watched = x.caddy.watch(x.T)
		x.watched.repeats = true
	}
	stop := make(chan struct{})
	var begin sync.Once
	begun := make(chan struct{})
	load := openloop.Options{Rate: x.rate, Duration: 10 * time.Minute, Timeout: 15 * time.Second, Connections: 4000, Stop: stop, Make: func(n int) (*http.Request, error) {
		begin.Do(func() { x.began = time.Now(); close(begun) })
		r, err := http.NewRequest(http.MethodGet, "http://"+x.site+"/", nil)
		if methodOf(n) == 1 {
			r, err = http.NewRequest(http.MethodPost, "http://"+x.site+"/", strings.NewReader("something to be kept"))
		}
		if err == nil {
			r.Header.Set(idHeader, fmt.Sprint(n))
		}
		return r, err
	}}
	var err error
	var wg sync.WaitGroup
	wg.Go(func() { x.summary, err = openloop.Run(x.Context(), load) })
	func() {
		defer wg.Wait()
		defer close(stop)
		<-begun
		x.pass(2 * time.Second)
		x.fault = time.Now()
		x.happens(x)
	}()
	if err != nil {
		x.Fatal(err)
	}
	x.count()
}

// pass lets the load go on for that time.
func (x *trial) pass(d time.Duration) { takes(x.Context(), d) }

// count takes down what became of the requests.
func (x *trial) count() {
	from := x.fault.Sub(x.began) - 100*time.Millisecond // what was on its way then may be hit
	early := x.summary.Only(func(r openloop.Request) bool { return r.Due+r.Latency < from })
	x.calm = early.Quantile(0.99)
	if x.ours && early.Failed() > 0 {
		x.Errorf("%d requests failed before anything happened: %v", early.Failed(), early.Statuses)
	}
	received := copies(x.members)
	x.summary = x.summary.Only(func(r openloop.Request) bool { return r.Due >= from })
	for _, r := range x.summary.Requests {
		method := methodOf(r.N)
		x.sent[method]++
		switch {
		case r.Backend == "":
			x.lost[method]++
		case r.Status >= 500:
			x.passed[method]++
		}
		if received[r.N] > 1 {
			x.twice[method]++
		}
	}
	if !x.back.IsZero() {
		x.even = x.evenAfter(x.back)
	}
}

// evenWindow is over which time shares are looked at.
const evenWindow = 2 * time.Second

// evenAfter is how long after that time shares became even: the beginning of the first window in which none is more than a fifth off.
func (x *trial) evenAfter(from time.Time) time.Duration {
	for at := from; at.Add(evenWindow).Before(time.Now()); at = at.Add(100 * time.Millisecond) {
		least, most := x.shares(at, at.Add(evenWindow))
		if least >= 0.8 && most <= 1.2 {
			return at.Sub(from)
		}
	}
	return -1
}

// shares are the smallest and the largest share in that time, in parts of an even one.
func (x *trial) shares(from, to time.Time) (least, most float64) {
	counts, sum := make([]int, len(x.members)), 0
	for i, m := range x.members {
		counts[i] = m.between(from, to)
		sum += counts[i]
	}
	if sum == 0 {
		return 0, 0
	}
	even := float64(sum) / float64(len(x.members))
	return float64(slices.Min(counts)) / even, float64(slices.Max(counts)) / even
}

// largestShare is the largest share that these members had in any window between these times, in parts of an even one.
func (x *trial) largestShare(from, to time.Time, members ...*member) (largest float64) {
	for at := from; !at.Add(evenWindow).After(to); at = at.Add(200 * time.Millisecond) {
		end := at.Add(evenWindow)
		sum, most := 0, 0
		for _, m := range x.members {
			sum += m.between(at, end)
		}
		for _, m := range members {
			most = max(most, m.between(at, end))
		}
		largest = max(largest, float64(most*len(x.members))/float64(max(sum, 1)))
	}
	return largest
}

// chance is by how much a share may be larger because policies choose at random: three standard deviations.
func (x *trial) chance() float64 {
	return 3 / math.Sqrt(float64(x.rate)*evenWindow.Seconds()/float64(len(x.members)))
}

// settle lets the load go on until shares are even, for a while, and a little longer.
func (x *trial) settle() {
	x.back = time.Now()
	for x.evenAfter(x.back) < 0 && time.Since(x.back) < 20*time.Second {
		x.pass(500 * time.Millisecond)
	}
	x.pass(time.Second)
}

func (x *trial) note(format string, args ...any) {
	x.notes = append(x.notes, fmt.Sprintf(format, args...))
}

// cell is what the table says of it.
func (x *trial) cell() string {
	parts := []string{fmt.Sprintf("lost %d+%d of %d+%d", x.lost[0], x.lost[1], x.sent[0], x.sent[1])}
	if x.passed != [2]int{} {
		parts = append(parts, fmt.Sprintf("5xx passed on %d+%d", x.passed[0], x.passed[1]))
	}
	parts = append(parts, fmt.Sprintf("twice %d+%d", x.twice[0], x.twice[1]), "p99 "+short(x.summary.Quantile(0.99)))
	switch {
	case x.back.IsZero():
	case x.even < 0:
		parts = append(parts, "even never")
	default:
		parts = append(parts, "even after "+short(x.even))
	}
	return strings.Join(append(parts, x.notes...), ", ")
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// wants collects what is wrong.
type wants []string

func (w *wants) that(ok bool, format string, args ...any) {
	if !ok {
		*w = append(*w, fmt.Sprintf(format, args...))
	}
}

// within judges what most scenarios have in common: so many GETs and POSTs may be lost or get a backend's 5xx, no POST is received
// twice, and nearly all requests are answered in that time.
func (x *trial) within(get, post int, p99 time.Duration) (w wants) {
	w.that(x.lost[0]+x.passed[0] <= get, "%d GET failed, want %d at most", x.lost[0]+x.passed[0], get)
	w.that(x.lost[1]+x.passed[1] <= post, "%d POST failed, want %d at most", x.lost[1]+x.passed[1], post)
	w.that(x.twice[1] == 0, "%d POST were received twice", x.twice[1])
	w.that(x.summary.Quantile(0.99) <= p99+x.calm, "p99 is %v, want %v more than the %v before at most", x.summary.Quantile(0.99), p99, x.calm)
	return w
}

// checkInvariants checks what must hold of ours whatever happens, when the load is off.
func (x *trial) checkInvariants() {
	x.Helper()
	if x.watched == nil {
		return
	}
	x.watched.atRest(func() map[string]int64 {
		got := make(map[string]int64)
		for _, m := range x.members {
			got[m.addr] = int64(m.between(time.Time{}, time.Now()))
		}
		return got
	})
}

// faultRow is a line of the table: a scenario, and a cell for each contender.
type faultRow struct {
	name, bar string
	cells     map[string]string // by the contender's name
	missed    bool
}

// faultTable collects rows.
type faultTable struct{ rows []faultRow }

func (f *faultTable) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "each at %d requests/s, lost and twice are GET+POST; shares are even when none is more than a fifth off in two seconds\n| scenario | bar |", *tableRate)
	for _, c := range contenders {
		b.WriteString(" " + c.name + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(contenders)) + "\n")
	for _, r := range f.rows {
		bar := r.bar
		if r.missed {
			bar += " **(missed)**"
		}
		b.WriteString("| " + r.name + " | " + bar + " |")
		for _, c := range contenders {
			cell := r.cells[c.name]
			if cell == "" {
				cell = "-"
			}
			b.WriteString(" " + cell + " |")
		}
		b.WriteString("\n")
	}
	return b.String()
}

// run runs a scenario with all contenders.
func (f *faultTable) run(t *testing.T, s faultScenario) {
	var mu sync.Mutex // guards r
	r := faultRow{name: s.name, bar: s.bar, cells: make(map[string]string)}
	ok := t.Run(s.name, func(t *testing.T) {
		for _, c := range contenders {
			if c.eager && !s.eager {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				if !s.inTurn {
					t.Parallel()
				}
				x := &trial{T: t, contender: c, faultScenario: s}
				x.run()
				wrong := s.judge(x)
				cell := x.cell()
				t.Log(cell)
				mu.Lock()
				r.cells[c.name] = cell
				mu.Unlock()
				if c.ours {
					for _, what := range wrong {
						t.Error(what)
					}
					x.checkInvariants()
				}
			})
		}
	})
	if r.missed = !ok; len(r.cells) > 0 {
		f.rows = append(f.rows, r)
	}
}

// TestFaultTable puts faults upon load_balancer and, for comparison, upon others, and prints a table. Ours has to hold what the bars
// say; of the others it is only told.
func TestFaultTable(t *testing.T) {
	var table faultTable
	defer func() { t.Logf("faults:\n%s", &table) }()
	for _, s := range faultScenarios {
		table.run(t, s)
	}
	for _, o := range others {
		table.runOther(t, o)
	}
}
