package integration

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// pastSeries is a history of the API.
type pastSeries struct {
	Time    []float64             `json:"time"`
	Series  map[string][]*float64 `json:"series"`
	Missing string                `json:"missing"`
}

// sum adds up the known points of a series, which are rates per second.
func (p *pastSeries) sum(name string) (sum float64) {
	for _, n := range p.Series[name] {
		if n != nil {
			sum += *n
		}
	}
	return sum
}

// TestDashboardHistory lets requests fail before the page is open, and then checks the graphs in a browser, also after a reload.
func TestDashboardHistory(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	config := siteConfig(strings.Replace(dashboardSite, "BACKENDS", addresses, 1))
	c := startCaddyConfig(t, config)
	var before pastSeries
	waitFor(t, "the first sample", func() bool {
		before = pastSeries{}
		c.api("GET", "/load_balancer/pools/web/history", &before)
		return len(before.Time) == 150
	})
	for range 50 {
		c.get("/hello")
	}
	backends[0].kill()
	backends[1].kill()
	for range 10 {
		_, _ = http.Get(c.url("/down"))
	}
	var past pastSeries
	waitFor(t, "the requests to be remembered", func() bool {
		past = pastSeries{}
		c.api("GET", "/load_balancer/pools/web/history?range=5m", &past)
		return past.sum("2xx")*2 > 25 && past.sum("5xx")*2 > 5 // on a busy machine a sample may be late, and its point covers a longer time
	})
	if got := past.sum("2xx") * 2; got > 75 {
		t.Errorf("%v requests with 2xx are remembered, 50 were made", got)
	}
	if err := c.reload(strings.Replace(config, "rise 1", "rise 2", 1)); err != nil {
		t.Fatal(err)
	}
	var after pastSeries
	waitFor(t, "a sample of the new config", func() bool {
		after = pastSeries{}
		c.api("GET", "/load_balancer/pools/web/history", &after)
		return after.Time[149] > past.Time[149]
	})
	if got, want := after.sum("2xx"), past.sum("2xx"); got != want {
		t.Errorf("after a reload, the sum is %v, it was %v", got, want)
	}
	for i, backend := range []string{backends[0].addr, "nobody"} {
		var of pastSeries
		if status := c.api("GET", "/load_balancer/pools/web/history?range=24h&backend="+backend, &of); status != []int{200, 404}[i] {
			t.Errorf("history of %s: status %d", backend, status)
		}
	}
	_, table := c.askAdmin("GET", "/load_balancer/pools/web/history?format=csv")
	if rows, err := csv.NewReader(strings.NewReader(string(table))).ReadAll(); err != nil || len(rows) != 151 || rows[0][0] != "time" {
		t.Errorf("a table of %d rows, %v: %.200s", len(rows), err, table)
	}

	b := openTab(t)
	b.open(c.url("/open/#pool=web"), nil)
	b.await("the graphs", "document.querySelectorAll('#detail .graph canvas').length === 7")
	b.await("the route that leads here", "document.querySelector('#detail .lanes-here').textContent.includes(':"+port(t, c.site)+"')")
	b.await("the past in them", "/2xx from 0 to [1-9]/.test(document.querySelector('#detail .canvas').ariaLabel)")
	shown := func(what string) string {
		return fmt.Sprintf("[...document.querySelectorAll('#detail .graph')].find(n => n.querySelector('h4').textContent.startsWith('%s'))", what)
	}
	b.await("the errors", "/5xx from 0 to [0-9]/.test("+shown("Errors")+".querySelector('.canvas').ariaLabel)")
	b.await("the fall of the backends as marks", "document.querySelectorAll('#feed-list li').length > 1")
	b.click(`[data-range="24h"]`)
	b.await("a link to the day", "location.hash.includes('range=24h') && document.querySelector('[data-range=\"24h\"]').ariaPressed === 'true'")
	b.await("the day", "document.querySelectorAll('#detail .graph canvas').length === 7")
	b.picture("day")
	eval[bool](b, "(document.getElementById('detail').close(), true)")
	b.await("the panel to be gone", "!location.hash.includes('pool=')")
}

// TestDashboardPanel checks the panels of a pool and of backends, on several screens and in both themes.
func TestDashboardPanel(t *testing.T) {
	source, url := startFake(t, 0, 0)
	b := openTab(t)
	axe := os.Getenv("BALLAST_AXE")
	for _, screen := range []struct {
		name          string
		width, height int64
	}{{"desk", 1440, 1300}, {"tablet", 820, 1180}, {"phone", 360, 1600}} {
		for _, theme := range []string{"light", "dark"} {
			for i, hash := range []string{"#pool=web&range=1h", "#pool=web&backend=web-4"} {
				b.look(screen.width, screen.height, theme)
				b.open("about:blank", nil)
				b.open(url+hash, nil)
				b.await("the graphs", fmt.Sprintf("document.querySelectorAll('#detail .graph canvas').length === %d", 7-i))
				b.await("numbers", "!document.querySelector('#detail .readout b').textContent.includes('–')")
				if state := b.text("#detail .now .pill"); state != []string{"Degraded", "Draining"}[i] {
					t.Errorf("the state is said to be %q", state)
				}
				b.checkFits()
				b.checkNames()
				if over := eval[int](b, "document.getElementById('detail').scrollWidth - document.getElementById('detail').clientWidth"); over > 0 {
					t.Errorf("%s: the panel is %d pixels wider than the screen: %s", screen.name, over, widest(b))
				}
				checkContrast(t, b, screen.name+" "+theme)
				if axe != "" {
					checkAxe(t, b, axe)
				}
				b.picture(fmt.Sprintf("%s-%s-%d", screen.name, theme, i))
			}
		}
	}
	b.look(1440, 1300, "light")

	// A point of the history is selected with the keyboard, or with the pointer.
	moment := "document.querySelector('#detail input[type=range]')"
	b.open(url+"#pool=web&range=5m", nil)
	b.await("the graphs", "document.querySelectorAll('#detail .graph canvas').length === 7")
	now := eval[string](b, moment+".getAttribute('aria-valuetext')")
	eval[bool](b, "("+moment+".value = 110, "+moment+".dispatchEvent(new Event('input')), true)")
	if then := eval[string](b, moment+".getAttribute('aria-valuetext')"); then == now || !strings.Contains(then, "p99 984 ms") || !strings.Contains(then, "waiting 40") {
		t.Errorf("at the fault: %s; now: %s", then, now)
	}
	source.Tell("backend_down", "web", "web-1", "active check", "<b>refused</b>")
	b.await("the event", "document.getElementById('feed-list').textContent.includes('<b>refused</b>')")
	eval[bool](b, "("+moment+".value = 149, "+moment+".dispatchEvent(new Event('input')), true)")
	b.await("what happened then", "document.querySelector('#detail .said').textContent.includes('web-1 is down · active check · <b>refused</b>')")
	box := eval[[]float64](b, "(() => { const r = document.querySelector('#detail .u-over').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()")
	eval[bool](b, fmt.Sprintf("(document.querySelector('#detail .u-over').dispatchEvent(new MouseEvent('mousemove', { bubbles: true, clientX: %v, clientY: %v })), true)", box[0]+box[2]*0.738, box[1]+20))
	b.await("the numbers under the pointer", "/p99 (9|8)[0-9]{2} ms/.test("+moment+".getAttribute('aria-valuetext'))")
	b.picture("pointed")

	// The peaks, their times, and the way to their points; the bytes.
	peaks := "[...document.querySelectorAll('#detail .peaks tbody tr')].map(row => [...row.children].slice(0, 3).map(cell => cell.textContent).join(' ')).join()"
	if got := eval[string](b, peaks); !regexp.MustCompile(`^Requests/s [0-9,]+ 1,[0-9]{3},In flight [0-9.]+ [0-9]{3},p95 11 ms 451 ms,Out/s [0-9.]+ MB [0-9.]+ MB,In/s [0-9.]+ kB [0-9.]+ kB,Queue 0 40$`).MatchString(got) {
		t.Errorf("the peaks are %s", got)
	}
	b.click("#detail .peaks tbody tr:nth-child(3) button")
	b.await("the time of the peak", "("+moment+".value === '110' && "+moment+".getAttribute('aria-valuetext').includes('p95 451 ms'))")
	if when := eval[string](b, "document.querySelector('#detail .when').textContent"); when != b.text("#detail .peaks tbody tr:nth-child(3) button") {
		t.Errorf("the peak is at %s", when)
	}
	facts := "document.querySelector('#detail .numbers').textContent"
	b.await("bytes in all and per second", "/Bytes in[0-9.]+ GB, [0-9.]+ [kM]B.sBytes out[0-9.]+ GB, [0-9.]+ MB.s/.test("+facts+")")

	// The table and the files have the same numbers.
	eval[bool](b, "(document.querySelector('#detail details.aside').open = true)")
	b.await("a row for each point that is known", "document.querySelectorAll('#detail table.past tbody tr').length === 110")
	for _, format := range []string{"json", "csv"} {
		at := fmt.Sprintf("document.querySelector('#detail [data-format=%s]')", format)
		if got := eval[string](b, at+".getAttribute('download')"); got != "ballast-web-5m."+format {
			t.Errorf("the file is called %q", got)
		}
		text := eval[string](b, "fetch("+at+".href).then(r => r.text())")
		if format == "json" && json.Valid([]byte(text)) != true || format == "csv" && !strings.HasPrefix(text, "time,") {
			t.Errorf("%s: %.100s", format, text)
		}
	}
	if link := eval[string](b, "document.querySelector('#detail [data-link]').href"); link != url+"#pool=web&range=5m" {
		t.Errorf("the link is %s", link)
	}

	// Another backend: why it gets no requests, the Caddyfile lines for its changes, and that there is no room for its history.
	eval[bool](b, "(location.hash = 'pool=web&backend=web-4', true)")
	b.await("why it gets nothing", "document.querySelector('#detail .explained').textContent.startsWith('It is not chosen: draining')")
	eval[bool](b, "(location.hash = 'pool=web&backend=web-2', true)")
	b.await("its bytes", "/Bytes out[0-9.]+ GB, [0-9.]+ MB.s/.test("+facts+")")
	source.Edit("web", "web-2", map[string]any{"bytes_in": nil, "bytes_out": nil})
	b.await("no bytes where none are counted", "!"+facts+".includes('Bytes')")
	b.await("the lines to paste", "document.querySelector('#detail pre').textContent.includes('weight 5') && !document.querySelector('#detail pre').textContent.includes('web-1')")
	b.await("its graphs", "document.querySelectorAll('#detail .graph canvas').length === 6")
	eval[bool](b, "(location.hash = 'pool=web&backend=web-6', true)")
	b.await("why there is none", "document.querySelector('#detail .missing').textContent.includes('no room for this backend') && document.querySelectorAll('#detail canvas').length === 0")
	eval[bool](b, "(location.hash = 'pool=api', true)")
	b.await("what the express lane leaves", "document.querySelector('#detail .lanes-here').textContent.includes('is left to Caddy: header')")
	if got := b.text("#detail .lanes-here"); strings.Contains(got, "told by") {
		t.Errorf("a route of the express lane is listed twice: %s", got)
	}
	eval[bool](b, "(location.hash = 'pool=web', true)")
	b.await("the routes without an express lane",
		"[...document.querySelectorAll('#detail .lanes-here li')].map(n => n.textContent).join() === ':443: example.com › /shop/* or /<i>cart</i> (method),:80: all requests,and 2 more'")
	eval[bool](b, "(document.getElementById('detail').close(), true)")
	b.await("the panel to be closed", "!location.hash.includes('pool=')")

	// The row of a pool and its button open the panel; its name collapses it.
	b.click(`[data-open="search"]`)
	b.await("the panel of the pool", "document.getElementById('detail-title').textContent === 'search' && document.getElementById('detail').open")
	if shown := b.text("#detail"); strings.Contains(shown, "NaN") || strings.Contains(shown, "undefined") || strings.Contains(shown, "null") {
		t.Errorf("the panel shows %s", shown)
	}
	for _, theme := range []string{"dark", "light"} {
		eval[bool](b, "(document.documentElement.dataset.theme = '"+theme+"', true)")
	}
}

// widest names the elements that are wider than the panel.
func widest(b *tab) string {
	return eval[string](b, `[...document.querySelectorAll('#detail *')].filter(n => n.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(n => n.tagName + '.' + n.className).join()`)
}

// checkContrast checks the contrast of the panel's texts with their backgrounds: at least 4.5 to 1, as WCAG 2.2 requires.
func checkContrast(t *testing.T, b *tab, where string) {
	t.Helper()
	if poor := eval[string](b, contrastScript); poor != "" {
		t.Errorf("%s: contrast below 4.5: %s", where, poor)
	}
}

const contrastScript = `(() => {
	const parts = colour => {
		const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
		return { rgb: [r, g, b], a };
	};
	const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const ground = node => {
		for (let n = node; n; n = n.parentElement) {
			const { rgb, a } = parts(getComputedStyle(n).backgroundColor);
			if (a === 1) {
				return rgb;
			}
		}
		return [255, 255, 255];
	};
	const texts = document.createTreeWalker(document.getElementById('detail'), NodeFilter.SHOW_TEXT);
	const poor = new Set();
	let checked = 0;
	while (texts.nextNode()) {
		const node = texts.currentNode.parentElement;
		if (texts.currentNode.data.trim() === '' || !node.checkVisibility() || node.closest('button:disabled')) {
			continue;
		}
		checked++;
		const [a, b] = [light(parts(getComputedStyle(node).color).rgb), light(ground(node))];
		const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (contrast < 4.5) {
			poor.add(node.tagName + '.' + node.className + ' ' + texts.currentNode.data + ' ' + contrast.toFixed(2));
		}
	}
	return checked > 20 ? [...poor].join('; ') : 'only ' + checked + ' texts were found';
})()`

// checkAxe checks the page with axe, if BALLAST_AXE is set to its file.
func checkAxe(t *testing.T, b *tab, file string) {
	t.Helper()
	script, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	eval[bool](b, string(script)+"; true")
	found := eval[string](b, "axe.run(document, { resultTypes: ['violations'] }).then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).slice(0, 3).join(' | ')).join('\\n'))")
	if found != "" {
		t.Errorf("axe: %s", found)
	}
}

// TestDashboardHistoryCost checks that the page requests the history only as often as needed, and not with a closed panel.
func TestDashboardHistoryCost(t *testing.T) {
	source, url := startFake(t, 0, 0)
	b := openTab(t)
	b.open(url, nil)
	b.await("backends", "document.querySelectorAll('tr.backend').length > 15")
	asked := "performance.getEntriesByType('resource').filter(e => /history|explain/.test(e.name)).length"
	eval[bool](b, "(location.hash = 'pool=web&range=24h', true)")
	b.await("one question", asked+" === 1")
	snapshots := func(more int) {
		before := source.Asked()
		waitFor(t, "some snapshots", func() bool { return source.Asked() >= before+more })
	}
	snapshots(4)
	if got := eval[int](b, asked); got != 1 {
		t.Errorf("%d questions for a day's history within seconds", got)
	}
	eval[bool](b, "(document.getElementById('detail').close(), true)")
	snapshots(3)
	if got := eval[int](b, asked); got != 1 {
		t.Errorf("%d questions with the panel closed", got)
	}
	eval[bool](b, "(location.hash = 'pool=web&range=5m', true)")
	b.await("one question every two seconds", asked+" >= 3")
}
