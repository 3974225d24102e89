package nginx

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// split is a split_clients. If its variable names one of two upstreams, it is converted to a canary.
type split struct {
	d    *directive
	by   []string // how clients are identified; nil for the address
	made *upstream
}

var shares = regexp.MustCompile(`^(\d{1,2})(?:\.(\d{1,2}))?%$`)

// seeSplit records a split_clients. It is converted where a proxy_pass uses its variable.
func (c *converter) seeSplit(d *directive) {
	c.splits[strings.TrimPrefix(d.arg(1), "$")] = &split{d: d}
}

// leave marks the split as not converted.
func (p *split) leave(why string) {
	p.d.line.Leave("%s; see canary in docs/canary.md", why)
	for _, e := range p.d.block {
		e.line.Leave("it is in split_clients")
	}
}

// splitOf returns the split whose variable is the whole address of a proxy_pass.
func (c *converter) splitOf(text string) (name string, p *split) {
	host, ok := strings.CutPrefix(text, "http://")
	if m := variable.FindStringSubmatch(host); ok && m != nil && m[0] == host {
		name = m[1] + m[2]
		return name, c.splits[name]
	}
	return "", nil
}

// upstream returns one upstream made of the two between which clients are split; why is the reason if that is not possible.
func (p *split) upstream(c *converter, at *scope) (u *upstream, why string) {
	if !setsHost(at) {
		return nil, "Host is the name of the upstream, which differs; set it by proxy_set_header"
	}
	if c.upstreams[strings.TrimPrefix(p.d.arg(1), "$")] != nil {
		return nil, "an upstream has the name of the variable"
	}
	if p.made != nil {
		return p.made, ""
	}
	if why = p.readKey(); why != "" {
		return nil, why
	}
	if len(p.d.block) != 2 || len(p.d.block[0].args) != 1 || len(p.d.block[1].args) != 1 || p.d.block[1].name != "*" {
		return nil, "only a share of one upstream and the rest (*) of another are converted"
	}
	m := shares.FindStringSubmatch(p.d.block[0].name)
	if m == nil {
		return nil, "the share is not understood"
	}
	share, _ := strconv.Atoi(m[1] + (m[2] + "00")[:2]) // in hundredths of a percent
	if share == 0 {
		return nil, "the share is 0"
	}
	canary, rest := c.upstreams[p.d.block[0].arg(0)], c.upstreams[p.d.block[1].arg(0)]
	if share > 5000 { // the canary is the smaller part
		canary, rest, share = rest, canary, 10000-share
	}
	switch {
	case canary == nil || rest == nil || canary.none || rest.none:
		return nil, "only upstreams are converted, and each needs a backend"
	case canary.settings != rest.settings || canary.idle != rest.idle || canary.wait != rest.wait:
		return nil, "the upstreams have other settings, and a pool has one policy"
	case slices.ContainsFunc(canary.addresses, func(a string) bool { return slices.Contains(rest.addresses, a) }):
		return nil, "both upstreams have a backend in common"
	case slices.ContainsFunc(canary.addresses, func(a string) bool { return strings.HasPrefix(a, "unix/") }):
		return nil, "a backend at a unix socket needs a name"
	}
	w := new(draft.Writer)
	w.Add(rest.backends + canary.backends + rest.settings)
	w.Open(slices.Concat([]string{"canary"}, canary.addresses, []string{strconv.FormatFloat(float64(share)/100, 'f', -1, 64) + "%"})...)
	if p.by != nil {
		w.Line(append([]string{"by"}, p.by...)...)
	}
	w.Line("guard", "off")
	w.Close()
	for _, e := range p.d.block {
		e.line.Done()
	}
	p.d.line.Near("other clients are chosen than by nginx; while all backends of a side are down, the other side serves its clients; without guard off, a canary that is worse is rolled back")
	if p.by != nil {
		p.d.line.Near("requests without the %s go to the larger side", p.by[0])
	}
	p.made = &upstream{d: p.d, body: w.String(), idle: rest.idle, wait: rest.wait, used: map[string]string{}}
	return p.made, ""
}

// readKey reads how clients are identified: by one variable, with text around it or not.
func (p *split) readKey() (why string) {
	found := variable.FindAllStringSubmatch(p.d.arg(0), -1)
	if len(found) != 1 {
		return "the key is not one variable"
	}
	name := found[0][1] + found[0][2]
	switch header, isHeader := strings.CutPrefix(name, "http_"); {
	case name == "remote_addr" || name == "binary_remote_addr":
		p.by = nil
	case isHeader && header != "" && header != "host" && header != "cookie":
		p.by = []string{"header", field(header)}
	case strings.HasPrefix(name, "cookie_") && len(name) > len("cookie_"):
		p.by = []string{"cookie", strings.TrimPrefix(name, "cookie_")}
	default:
		return "clients can be identified by address, header field or cookie, not by $" + name
	}
	return ""
}

// setsHost reports whether the Host that backends get is set, and does not depend on the upstream.
func setsHost(at *scope) bool {
	for _, d := range at.all("proxy_set_header") {
		if strings.EqualFold(d.arg(0), "Host") {
			return !strings.Contains(d.arg(1), "proxy_host")
		}
	}
	return false
}
