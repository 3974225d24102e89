package integration

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/chromedp"

	"github.com/ballastlb/ballast/lbmodule/dashboard"
	"github.com/ballastlb/ballast/lbmodule/dashboard/fake"
)

// dashboardSite is a site with two dashboards: one for users who have logged in, and one for all. The password is "secret".
const dashboardSite = `
	encode
	handle /lb* {
		basic_auth {
			ann $2a$04$13sjnWQuT5qD5zuZL1dDlOxkqS9PA0P2w8.ztUhpwPKTZ20q5YgtK
		}
		load_balancer_dashboard {
			actions
		}
	}
	handle_path /open/* {
		load_balancer_dashboard
	}
	load_balancer BACKENDS {
		name web
		health_check {
			tcp
			interval 200ms
			timeout 150ms
			rise 1
			fall 1
		}
	}
`

var annsLogin = map[string]any{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))}

// TestDashboard opens the dashboard of a running Caddy in a real browser.
func TestDashboard(t *testing.T) {
	backends, addresses := startBackends(t, 3)
	config := strings.Replace(siteConfig(strings.Replace(dashboardSite, "BACKENDS", addresses, 1)), seamless, expressOn, 1)
	c := startCaddyConfig(t, config)
	b := openTab(t)
	b.open(c.url("/lb"), annsLogin) // redirects to /lb/
	b.await("the dashboard to be live", "document.getElementById('live-text').textContent === 'live'")
	b.await("three backends that are up", "document.querySelectorAll('tr.backend[data-tone=ok]').length === 3")
	if got := b.text("#who"); got != "ann" {
		t.Errorf("the user is %q, want ann", got)
	}

	// The express lane serves nothing here, because answers are encoded.
	const lane = "document.getElementById('lanes-list').textContent"
	b.await("the express lane to be on", lane+".includes('"+port(t, c.site)+"on')")
	b.await("what was left to Caddy", "/0 served · [1-9][0-9]* left to Caddy/.test("+lane+") && /encode [1-9]/.test("+lane+")")
	b.await("the routes that are left to Caddy", lane+".includes('load_balancer web: encode')")

	// A backend is taken out by hand, and brought back.
	b.click(`tr[data-backend="` + backends[1].addr + `"] button.name`)
	b.click(`[data-action="drain"]`)
	eval[bool](b, "(document.getElementById('reason').value = 'kernel update', document.getElementById('for').value = '15m', true)")
	b.click("#ask-yes")
	b.await("the drained backend", row(backends[1].addr)+".dataset.tone === 'out'")
	b.await("by whom and why", row(backends[1].addr)+".textContent.includes('kernel update, by ann')")
	b.await("the difference from the config", "document.getElementById('changes-list').textContent.includes('state: ready → drain')")
	b.await("the event", "document.getElementById('feed-list').textContent.includes('changed')")
	if got := c.pool(); got.Usable != 2 {
		t.Errorf("%d backends are usable beside the drained one, want 2", got.Usable)
	}
	b.click(".toast button")
	b.await("the backend as it was", row(backends[1].addr)+".dataset.tone === 'ok'")
	b.await("no difference", "document.getElementById('changes').hidden")
	if got := c.pool(); got.Usable != 3 {
		t.Errorf("%d backends are usable after the undo, want 3", got.Usable)
	}
	eval[bool](b, "(document.getElementById('detail').close(), true)")

	// The page must soon show what Caddy knows. The best of several tries counts, because the machine may be busy.
	const bound = 2 * time.Second
	quickest := time.Hour
	for try := 0; try < 4 && quickest > bound; try++ {
		backends[0].kill()
		waitFor(t, "the check to find the killed backend down", func() bool { return c.pool().Usable == 2 })
		start := time.Now()
		b.await("the killed backend to be red", row(backends[0].addr)+".dataset.tone === 'bad'")
		quickest = min(quickest, time.Since(start))
		b.await("the reason", "document.getElementById('problems').textContent.includes('connection refused')")
		backends[0] = startBackendAt(t, "tcp", backends[0].addr)
		b.await("the backend to be well again", row(backends[0].addr)+".dataset.tone === 'ok'")
	}
	if t.Logf("red %v after the check", quickest); quickest > bound {
		t.Errorf("a killed backend is red after %v, want %v", quickest, bound)
	}

	// A reload ends the streams. The page reconnects and shows the pools of the new config.
	if err := c.reload(strings.Replace(config, "name web", "name shop", 1)); err != nil {
		t.Fatal(err)
	}
	b.await("the new pool and no other", "[...document.querySelectorAll('button.fold')].map(n => n.textContent).join() === 'shop'")
	b.await("the page to be live after a reload", "document.getElementById('live-text').textContent === 'live'")

	// It also reconnects after a restart, and shows meanwhile that it is not connected.
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // with a stream open
	select {
	case <-c.ended:
	case <-time.After(15 * time.Second):
		t.Fatal("caddy does not stop while a dashboard is open")
	}
	b.await("the page to say that the server is away", "document.getElementById('live').dataset.tone === 'bad' && document.body.classList.contains('old')")
	b.await("title and icon to say so", "document.title.startsWith('(not connected)') && document.getElementById('icon').href.endsWith('icon-idle.svg')")
	c.ended = make(chan struct{})
	c.run(config, nil)
	if !c.serves() {
		t.Fatal("caddy ended")
	}
	b.await("the page to be live after a restart", "document.getElementById('live-text').textContent === 'live' && !document.body.classList.contains('old')")
	b.await("the old pool again", "[...document.querySelectorAll('button.fold')].map(n => n.textContent).join() === 'web'")

	b.open(c.url("/open/"), nil)
	b.await("a page that only shows", "document.getElementById('who').textContent === 'read-only'")
	b.await("the express lane under another path", lane+".includes('encode')")
	b.click("button.name")
	b.await("the drawer without buttons", "document.getElementById('detail').open && document.querySelector('.acts').hidden")
}

// startFake serves a dashboard of simulated pools, and returns their source and the URL.
func startFake(t *testing.T, more, backends int) (*fake.Source, string) {
	t.Helper()
	source := fake.New(more, backends)
	page := dashboard.New(source)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, file := path.Split(r.URL.Path)
		page.Serve(w, r, dashboard.Visit{File: file, Path: r.URL.Path, User: "ann", Actions: true})
	}))
	t.Cleanup(func() {
		page.Close()
		server.Close()
	})
	return source, server.URL + "/lb/"
}

// TestDashboardScreens checks the page with all states of pools and backends, on several screens and in both themes.
func TestDashboardScreens(t *testing.T) {
	source, url := startFake(t, 0, 0)
	b := openTab(t)
	b.open(url, nil)
	b.await("backends", "document.querySelectorAll('tr.backend').length > 15")
	b.await("rates", "document.querySelector('#tiles .big').textContent !== '–'")
	grounds := make(map[string]bool)
	for _, screen := range []struct {
		name          string
		width, height int64
	}{{"desk", 1440, 900}, {"tablet", 820, 1180}, {"phone", 390, 844}} {
		for _, theme := range []string{"light", "dark"} {
			b.look(screen.width, screen.height, theme)
			b.do(chromedp.Reload())
			b.await("backends", "document.querySelectorAll('tr.backend').length > 15")
			b.checkFits()
			b.checkNames()
			b.picture(screen.name + "-" + theme)
			grounds[eval[string](b, "getComputedStyle(document.body).backgroundColor")] = true
		}
	}
	if len(grounds) != 2 {
		t.Errorf("the grounds of the two themes are %v", grounds)
	}
	shown := eval[string](b, "document.body.textContent")
	for _, want := range []string{"Down", "Breaker open", "Half-open", "Draining", "Maintenance", "Unchecked", "Ramping 43 %", "Full", "Avoided", "Panic", "Degraded", `<b>&amp;</b> "quoted"`} {
		if !strings.Contains(shown, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	for _, never := range []string{"NaN", "undefined", "[object", "null"} {
		if strings.Contains(shown, never) {
			t.Errorf("the page shows %q", never)
		}
	}

	// Markup in texts from outside must be shown as text.
	source.Edit("web", "web-1", map[string]any{"usable": false, "health": "down", "reason": "<img src=x onerror=alert(1)>", "zone": "<i>z</i>"})
	source.Tell("backend_down", "web", "web-1", "<script>alert(1)</script>", "<svg onload=alert(1)>")
	b.await("the text", "document.getElementById('problems').textContent.includes('onerror') && document.getElementById('feed-list').textContent.includes('<script>')")
	if n := eval[int](b, "document.querySelectorAll('main img, main script, main i').length"); n != 0 {
		t.Errorf("%d elements were made of text", n)
	}

	// If a pool is removed while the drawer shows one of its backends, the drawer says so.
	eval[bool](b, "(location.hash = 'pool=static&backend=10.0.4.1:80', true)")
	b.await("the drawer", "document.getElementById('detail').open")
	source.Edit("static", "", nil)
	b.await("it to say so", "document.querySelector('#detail .why').textContent.includes('no pool static')")
}

// TestDashboardUse uses the page: search, sort, open details, drain a backend, and undo it.
func TestDashboardUse(t *testing.T) {
	source, url := startFake(t, 0, 0)
	b := openTab(t)
	b.open(url+"#q=api&show=trouble&sort=-p95", nil)
	visible := "[...document.querySelectorAll('tr.backend:not([hidden])')].filter(n => n.offsetParent).map(n => n.dataset.backend).join()"
	b.await("what the link says", visible+" === 'api-3,api-2,api-4,api-6'")
	if got := eval[string](b, "document.getElementById('search').value"); got != "api" {
		t.Errorf("the search field has %q", got)
	}
	eval[bool](b, `(document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: '!', bubbles: true })), true)`)
	b.await("all of the pool", visible+".includes('api-1')")
	b.click("th.name button")
	b.await("the names in order", visible+" === 'api-1,api-2,api-3,api-4,api-5,api-6' && location.hash === '#q=api&sort=name'")

	b.click(`tr[data-backend="api-1"] button.name`)
	b.await("the drawer and a link to it", "document.getElementById('detail').open && location.hash.includes('backend=api-1')")
	b.click(`[data-action="weight"]`)
	eval[bool](b, "(document.getElementById('weight').value = '70000', document.getElementById('weight').max = '99999', true)")
	b.click("#ask-yes")
	b.await("the refusal", "document.getElementById('ask-error').textContent.includes('must be from 0 to 65535')")
	b.click("#ask-no")

	b.click(`[data-action="drain"]`)
	b.await("the question", "document.getElementById('ask').open && document.getElementById('ask-title').textContent === 'Drain: api-1'")
	b.picture("question")
	eval[bool](b, "(document.getElementById('reason').value = 'new disk', document.getElementById('for').value = '15m', true)")
	b.click("#ask-yes")
	b.await("the drained backend", row("api-1")+".dataset.tone === 'out' && !document.getElementById('ask').open")
	b.await("by whom and why", row("api-1")+".textContent.includes('new disk, by ann')")
	b.picture("drained")
	b.click(".toast button")
	b.await("the backend as it was", row("api-1")+".dataset.tone === 'ok'")

	if shown := b.text("#problems"); !strings.Contains(shown, "api gets no good list of backends") || !strings.Contains(shown, "line 4, column 12") ||
		!strings.Contains(shown, "api uses 2 backends outside its subset") {
		t.Errorf("the problems lack a bad list of backends, or a subset without a usable backend: %q", shown)
	}

	// An avoided backend is in use, but its row gives the reason. The search finds it by the reason, and the drawer shows all of it.
	const late, fails = "its answers take 400 ms, the others' 3.1 ms; tried again in 0.8 s", "it fails; tried again with the next request"
	eval[bool](b, "(location.hash = 'q=take%20400&show=up', true)")
	b.await("the backend that is avoided", visible+" === 'web-7'")
	if got := eval[string](b, row("web-7")+".dataset.tone"); got != "warn" {
		t.Errorf("the tone of the avoided backend is %q", got)
	}
	if got := eval[string](b, row("web-7")+".textContent"); !strings.Contains(got, "Avoided") || !strings.Contains(got, late) {
		t.Errorf("the row of the avoided backend says %q", got)
	}
	b.click("#problems li:last-child button")
	b.await("all problems", "document.getElementById('problems').textContent.includes('show fewer')")
	if shown := b.text("#problems"); !strings.Contains(shown, "web-7 in web is slow") || !strings.Contains(shown, "api refuses 47 requests/s") {
		t.Errorf("the problems lack the slow backend, or the pool that refuses requests: %q", shown)
	}
	b.click("#problems li:last-child button")
	b.picture("avoided")
	source.Edit("web", "web-7", map[string]any{"avoided": fails})
	b.click(`tr[data-backend="web-7"] button.name`)
	b.await("the drawer to say the latest", "document.querySelector('#detail .why').textContent === '"+fails+"'")
	b.picture("avoided-detail")
	// A closing drawer writes the URL, with the current search. The test must wait for that before it changes the search.
	eval[bool](b, "(document.getElementById('detail').close(), true)")
	b.await("the drawer to be closed", "!location.hash.includes('backend=')")
	eval[bool](b, "(location.hash = '', true)")
	source.Edit("web", "web-7", map[string]any{"avoided": nil})
	b.await("the backend as any other", row("web-7")+".dataset.tone === 'ok' && !"+row("web-7")+".textContent.includes('it fails')")

	// The express lanes: on, or why not; how much they serve; why not the rest; and the routes.
	lane := func(n int, what string) string {
		return fmt.Sprintf("document.querySelectorAll('#lanes-list > .lane')[%d]?.querySelector('%s')?.textContent", n, what)
	}
	for _, want := range []struct {
		n          int
		what, text string
	}{
		{0, ".first", ":443on"}, {0, ".tags", "header 4,2"}, {0, ".tags", "te 310"}, {0, ".second", "left to Caddy · 99.6 %"},
		{0, "summary", "2 routes left to Caddy"}, {0, "li:first-child", "example.com /static/*file_server: file_server"},
		{0, "li:last-child", "all hosts /<i>beta</i>/*load_balancer api: header"},
		{1, ".first", ":8443 :9443off: trusted_proxies"}, {1, ".second", "0 served · 91 left to Caddy"}, {1, ".tags", "trusted_proxies 91"},
	} {
		b.await(want.text, lane(want.n, want.what)+fmt.Sprintf("?.includes(%q)", want.text))
	}
	b.await("the rate", "/[23],[0-9]{3} served.s/.test("+lane(0, ".number")+")")
	if shown := eval[bool](b, "document.querySelectorAll('#lanes-list > .lane')[1].querySelector('details').checkVisibility()"); shown {
		t.Error("a server without routes that are left to Caddy has a list of them")
	}
	b.click("#lanes-list summary")
	b.picture("lanes")

	// The fleet: its nodes and their differences.
	for _, want := range []struct{ what, text string }{
		{"#fleet-nodes > :nth-child(1)", "edge-1this one9 of 10 usable"}, {"#fleet-nodes > :nth-child(2)", "edge-2alive10 of 10 usable790 requests/s"},
		{"#fleet-nodes > :nth-child(3)", "<b>edge-3</b>gonesilent for 5m"}, {"#fleet-differences", "Usable on some nodes only: web / 10.0.0.3:8080active check failed: edge-1 · usable: edge-2"},
	} {
		b.await(want.text, fmt.Sprintf("document.querySelector('%s')?.textContent.includes(%q)", want.what, want.text))
	}
	eval[bool](b, "(document.getElementById('fleet').scrollIntoView(), true)")
	b.picture("fleet")

	source.Edit("api", "api-2", map[string]any{"name": "api-9"})
	eval[bool](b, "(location.hash = 'pool=api&backend=api-9', true)")
	b.await("another backend", "document.getElementById('detail-title').textContent === 'api-9'")
	source.Edit("api", "api-9", map[string]any{"name": "api-2"})
	b.await("it to be gone", "document.querySelector('#detail .why').textContent.includes('no such backend')")
	eval[bool](b, "(document.getElementById('detail').close(), true)")
	b.await("the drawer to be closed", "!location.hash.includes('pool=')")

	// The lists for comparing backends show bytes, unless there are no counts or no room.
	seen := "document.querySelector('th.bytes_out').checkVisibility()"
	b.await("no bytes beside the rest", "!"+seen)
	eval[bool](b, "(location.hash = 'list=flat&dense=1&sort=-bytes_out', true)")
	b.await("bytes in a flat list", seen+" && /[0-9.]+ MB/.test("+row("web-2")+".querySelector('.bytes_out').textContent)")
	b.await("those with most on top", visible+".startsWith('[2001:db8::4:3]:80') || "+visible+".startsWith('10.0.4.')")
	b.picture("flat")
	b.look(1000, 900, "light")
	b.await("no room for bytes", "!"+seen)
}

// TestDashboardFleet checks the page with a thousand backends and twenty viewers.
func TestDashboardFleet(t *testing.T) {
	source, url := startFake(t, 10, 100)
	for range 19 {
		res, err := http.Get(url + "stream")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		go func() { _, _ = io.Copy(io.Discard, res.Body) }()
	}
	b := openTab(t)
	b.open(url+"#unfold="+unfolded(10), nil)
	b.await("a thousand rows", "document.querySelectorAll('tr.backend').length >= 1000")
	b.quiet("with a thousand backends")
	before := source.Asked()
	start := time.Now()
	eval[bool](b, "(window.rows = [...document.querySelectorAll('tr.backend')], window.nodes = document.querySelectorAll('*').length, true)")
	b.await("three more states", "(window.times ??= new Set()).add(document.querySelector('#tiles .big').textContent).size > 3")
	if asked, most := source.Asked()-before, int(time.Since(start)/time.Second)+2; asked > most {
		t.Errorf("%d snapshots for twenty viewers, want at most %d", asked, most)
	}
	if same := eval[bool](b, "window.rows.every(row => row.isConnected)"); !same {
		t.Error("rows were replaced")
	}
	if grown := eval[int](b, "document.querySelectorAll('*').length - window.nodes"); grown > 100 {
		t.Errorf("the page grew by %d elements in three states", grown)
	}

	// A row far off the screen is not painted, but the search finds it, and it is updated when it is scrolled into view.
	const last = "window.rows.at(-1)"
	if eval[bool](b, last+".firstChild.checkVisibility({ contentVisibilityAuto: true })") {
		t.Error("a row far off the screen is laid out and painted")
	}
	if !eval[bool](b, "window.find('10.29.0.100:8080') && window.rows.some(row => row.contains(getSelection().anchorNode))") {
		t.Error("the browser's search does not find a row that is off the screen")
	}
	eval[bool](b, "("+last+".scrollIntoView(), true)")
	b.await("the last row to be current", "/[0-9]/.test("+last+".querySelector('.rate .number').textContent)")
}

// quiet measures how busy the page is while it shows a state each second. It measures CPU time, because the duration of the main thread's
// tasks depends on what else the machine does. An animation that keeps repainting the whole page is far above the limit.
func (b *tab) quiet(what string) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, performance.Enable, performance.EnableParams{}); err != nil {
		b.t.Fatal(err)
	}
	busy := func() (total [4]float64) {
		got, err := chromedp.Call(b.ctx, performance.GetMetrics, cdp.Empty{})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, m := range got.Metrics {
			if i := slices.Index([]string{"ThreadTime", "TaskDuration", "ScriptDuration", "LayoutDuration"}, m.Name); i >= 0 {
				total[i] = m.Value
			}
		}
		return total
	}
	least := 1.0
	for range 3 { // the best of three measurements of five seconds
		before, start := busy(), time.Now()
		b.await("five states", fmt.Sprintf("(window.began%d ??= performance.now()) < performance.now() - 5000", start.UnixNano()))
		after, took := busy(), time.Since(start).Seconds()
		share := func(i int) float64 { return 100 * (after[i] - before[i]) / took }
		b.t.Logf("%s: the page's main thread takes %.1f %% of a core; by the clock it is busy for %.1f %% of the time, %.1f %% with scripts and %.1f %% with layout",
			what, share(0), share(1), share(2), share(3))
		least = min(least, share(0)/100)
	}
	if least == 0 || least > 0.07 {
		b.t.Errorf("%s: the page's main thread takes %.1f %% of a core, want more than nothing and 7 %% at most", what, 100*least)
	}
}

func unfolded(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("shard-%02d", i+1)
	}
	return strings.Join(names, ",")
}

// TestDashboardFormat checks how the page formats numbers and times, by calling its JavaScript.
func TestDashboardFormat(t *testing.T) {
	_, url := startFake(t, 0, 0)
	b := openTab(t)
	b.open(url, nil)
	for _, tt := range []struct{ call, want string }{
		{"count(0)", "0"}, {"count(950)", "950"}, {"count(1234)", "1,234"}, {"count(12345)", "12.3k"}, {"count(999499)", "999k"}, {"count(999500)", "1.0M"}, {"count(2.5e12)", "2.5T"},
		{"count(NaN)", "–"}, {"count(undefined)", "–"}, {"count(null)", "–"}, {"count('7')", "–"},
		{"rate(0)", "0"}, {"rate(0.01)", "<0.1"}, {"rate(0.5)", "0.5"}, {"rate(9.96)", "10"}, {"rate(-3)", "-3"},
		{"percent(0)", "0 %"}, {"percent(0.0001)", "<0.1 %"}, {"percent(0.05)", "5.0 %"}, {"percent(0.5)", "50 %"}, {"percent(0.994)", "99.4 %"}, {"percent(1)", "100 %"}, {"percent(NaN)", "–"},
		{"millis(0.01)", "<0.1 ms"}, {"millis(0.5)", "0.5 ms"}, {"millis(9.94)", "9.9 ms"}, {"millis(10)", "10 ms"}, {"millis(999)", "999 ms"}, {"millis(1000)", "1.00 s"}, {"millis(12000)", "12.0 s"},
		{"duration(0)", "0s"}, {"duration(-5)", "0s"}, {"duration(59.9)", "59s"}, {"duration(61)", "1m 1s"}, {"duration(3599)", "59m 59s"}, {"duration(7260)", "2h 1m"}, {"duration(90000)", "1d 1h"}, {"duration(NaN)", "–"},
		{"bytes(0)", "0 B"}, {"bytes(1536)", "1.5 KiB"}, {"bytes(2**30)", "1.0 GiB"}, {"bytes(150 * 2**20)", "150 MiB"},
		{"volume(0)", "0 B"}, {"volume(999)", "999 B"}, {"volume(1000)", "1.0 kB"}, {"volume(3.42e6)", "3.4 MB"}, {"volume(1.25e9)", "1.3 GB"}, {"volume(150e12)", "150 TB"}, {"volume(undefined)", "–"},
		{"weight(2.345)", "2.35"}, {"weight(3)", "3"}, {"plural(1, 'pool')", "1 pool"}, {"plural(2, 'pool')", "2 pools"},
		{"['b', 'a10', 'a9'].sort(byName).join()", "a9,a10,b"},
	} {
		script := "import('./format.js').then(f => { with (f) { return " + tt.call + " } })"
		if got := eval[string](b, script); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.call, got, tt.want)
		}
	}
}

// TestDashboardRates checks the rates that the page computes: over a second, over a restart of the server, and over a gap in the states.
func TestDashboardRates(t *testing.T) {
	_, url := startFake(t, 0, 0)
	b := openTab(t)
	b.open(url, nil)
	got := eval[string](b, `import('./model.js').then(({ Model }) => {
		const model = new Model();
		const seen = [];
		const take = (second, requests, failures) => {
			const codes = { '2xx': requests - failures, '5xx': 0 };
			const backend = { name: 'a', usable: true, weight: 1, in_flight: 0, requests, failures, codes };
			const answers = { requests, canceled: 0, codes: { '2xx': requests - failures, '5xx': failures } };
			model.take({ time: new Date(1e12 + 1000 * second).toISOString(), pools: [{ name: 'web', ...answers, backends: [backend] }] });
			const [{ rates, errorShare }] = model.backends();
			seen.push([rates.requests ?? 'unknown', errorShare ?? 'unknown', model.requests.latest].join(' '));
		};
		take(0, 100, 0);
		take(1, 110, 5);
		take(2, 130, 5);
		take(3, 4, 0);
		take(4, 8, 0);
		take(8, 28, 0);
		seen.push([...model.requests.values.slice(-5)].join(' '));
		return seen.join(', ');
	})`)
	want := "unknown unknown NaN, 10 0.5 10, 15 0.16666666666666666 20, unknown unknown NaN, 4 0 4, 4.8 0 5, 4 NaN NaN NaN 5"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestDashboardAccess checks the paths of dashboards, and the access to changes.
func TestDashboardAccess(t *testing.T) {
	_, addresses := startBackends(t, 1)
	c := startCaddy(t, strings.Replace(dashboardSite, "BACKENDS", addresses, 1))
	const drain = `{"pool":"web","backend":"nobody","change":{"state":"drain"}}`
	tests := []struct {
		name, method, target, body string
		login                      bool
		header                     [2]string
		status                     int
	}{
		{"no login", "GET", "/lb/", "", false, [2]string{}, 401},
		{"no login for the stream", "GET", "/lb/stream", "", false, [2]string{}, 401},
		{"login", "GET", "/lb/", "", true, [2]string{}, 200},
		{"file", "GET", "/lb/main.js", "", true, [2]string{}, 200},
		{"open to all", "GET", "/open/", "", false, [2]string{}, 200},
		{"file, path stripped", "GET", "/open/main.js", "", false, [2]string{}, 200},
		{"change without login", "POST", "/open/change", drain, false, [2]string{"Content-Type", "application/json"}, 403},
		{"change without login, claimed", "POST", "/open/change", drain, false, [2]string{"Authorization", "Basic YW5uOnNlY3JldA=="}, 403},
		{"change of a backend that is not there", "POST", "/lb/change", drain, true, [2]string{}, 404},
		{"change as a form", "POST", "/lb/change", drain, true, [2]string{"Content-Type", "text/plain"}, 415},
		{"change from another origin", "POST", "/lb/change", drain, true, [2]string{"Origin", "https://evil.example"}, 403},
		{"change from another site", "POST", "/lb/change", drain, true, [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
	}
	for _, tt := range tests {
		r, err := http.NewRequest(tt.method, c.url(tt.target), strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if tt.login {
			r.SetBasicAuth("ann", "secret")
		}
		if tt.header[0] != "" {
			r.Header.Set(tt.header[0], tt.header[1])
		}
		if status, body := c.ask(r); status != tt.status {
			t.Errorf("%s: status %d, want %d: %.200s", tt.name, status, tt.status, body)
		}
	}
}

// TestDashboardStreamEnds checks that neither a reload nor the end of Caddy waits for a viewer that stays connected.
func TestDashboardStreamEnds(t *testing.T) {
	_, addresses := startBackends(t, 1)
	site := strings.Replace(dashboardSite, "BACKENDS", addresses, 1)
	c := startCaddy(t, site)
	conn, err := net.Dial("tcp", c.site)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /open/stream HTTP/1.1\r\nHost: %s\r\nAccept-Encoding: gzip\r\n\r\n", c.site)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("stream: %d, %v", res.StatusCode, res.Header)
	}
	if err := c.reload(siteConfig(site + "\n\theader X-New 1")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Errorf("the stream does not end with its config: %v", err)
	}
}
