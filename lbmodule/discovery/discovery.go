// Package discovery has sources of backends that other tools can provide: a file, and a URL, in the format of Prometheus' service
// discovery.
package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	neturl "net/url"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// Source is a source of upstreams with the properties of its backends.
type Source interface {
	reverseproxy.UpstreamSource

	// List returns the last good list, nil if there has been none, and the error of the latest answer, nil if the list is from that answer.
	// Callers may call it often: the source limits how often it looks. As long as the list does not change, the pointer stays the same.
	List(ctx context.Context) (*List, error)
}

// List is a list of backends. It is immutable.
type List struct {
	Backends []config.Backend
}

// equal reports whether both lists have the same backends.
func (l *List) equal(other *List) bool {
	return l != nil && slices.EqualFunc(l.Backends, other.Backends, func(a, b config.Backend) bool { return Same(&a, &b) })
}

// Same reports whether both have the same address and properties.
func Same(a, b *config.Backend) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil {
		return false
	}
	sameWeight := a.Weight == b.Weight || a.Weight != nil && b.Weight != nil && *a.Weight == *b.Weight
	return sameWeight && a.Address == b.Address && a.Name == b.Name && a.MaxRequests == b.MaxRequests && a.Backup == b.Backup && a.Zone == b.Zone
}

// ContentError is an error in the content of a list. Its text stays the same as long as the content does.
type ContentError struct{ text string }

func (e *ContentError) Error() string { return e.text }

// namespace is the namespace of reverse_proxy's sources of upstreams.
const namespace = "http.reverse_proxy.upstreams."

// words maps the names of sources in a load_balancer to module names. The modules have longer names, because other plugins may use the
// short ones.
var words = map[string]string{"file": fileModule, "http": httpModule}

// Resolve returns the module name of a source with this name in load_balancer.
func Resolve(name string) string {
	if module, ours := words[name]; ours {
		return module
	}
	return name
}

// Uses reports whether the source with this config is one of ours, or contains one of ours.
func Uses(raw json.RawMessage) bool {
	var multi struct {
		Sources []json.RawMessage `json:"sources"`
	}
	_, is := Location(raw)
	return is || json.Unmarshal(raw, &multi) == nil && slices.ContainsFunc(multi.Sources, Uses)
}

// Location describes where the source with this config gets its list from, without secrets. ok is false if the source is not one of ours.
// Placeholders are not replaced: the value of an environment variable may be a secret.
func Location(raw json.RawMessage) (location string, ok bool) {
	var source struct {
		Source string `json:"source"`
		Path   string `json:"path"`
		URL    string `json:"url"`
	}
	if json.Unmarshal(raw, &source) != nil {
		return "", false
	}
	switch source.Source {
	case fileModule:
		return "file:" + source.Path, true
	case httpModule:
		return redact(source.URL), true
	default:
		return "", false
	}
}

// redact returns a URL without user, password, query and fragment.
func redact(url string) string {
	if u, err := neturl.Parse(url); err == nil && u.Host != "" {
		return u.Scheme + "://" + u.Host + u.EscapedPath()
	}
	if end := strings.IndexAny(url, "?#"); end >= 0 {
		url = url[:end]
	}
	begin := strings.Index(url, "://") + len("://")
	if begin < len("://") {
		begin = 0 // the URL is not valid
	}
	// An @ after a slash is part of the path, or of a password with an unescaped slash, which is not valid but occurs.
	if at := strings.LastIndexByte(url, '@'); at >= begin {
		return url[:begin] + url[at+1:]
	}
	return url
}

// fill replaces placeholders that are the same for every request. known is false if others are left.
func fill(text string) (filled string, known bool) {
	filled = caddy.NewReplacer().ReplaceKnown(text, "")
	return filled, !strings.Contains(filled, "{")
}

var errPlaceholder = errors.New("must have no placeholders except those of the environment, because the list is not read for a request")

// plain serves a plain reverse_proxy, which asks for each request and supports addresses and caps only.
type plain struct {
	logger   *zap.Logger
	location string

	mu      sync.Mutex
	problem error // the last one that was logged
}

// upstreams returns the list as reverse_proxy's upstreams. reverse_proxy changes upstreams, so each call makes new ones.
func (p *plain) upstreams(r *http.Request, s Source) ([]*reverseproxy.Upstream, error) {
	list, err := s.List(r.Context())
	p.note(err)
	if list == nil {
		return nil, err
	}
	all := make([]*reverseproxy.Upstream, len(list.Backends))
	for i := range list.Backends {
		all[i] = &reverseproxy.Upstream{Dial: list.Backends[i].Address, MaxRequests: max(int(list.Backends[i].MaxRequests), 0)} // 0 for auto
	}
	return all, nil
}

// note logs when the source begins to fail, when it recovers, and when the error in its list changes.
func (p *plain) note(err error) {
	p.mu.Lock()
	before := p.problem
	p.problem = err
	p.mu.Unlock()
	switch {
	case err == nil && before != nil:
		p.logger.Info("list of upstreams is valid again", zap.String("source", p.location))
	case err != nil && NewProblem(before, err):
		p.logger.Error("list of upstreams cannot be used; the last valid one is kept", zap.String("source", p.location), zap.Error(err))
	}
}

// NewProblem reports whether err must be reported after before: the source has begun to fail, or the content of the list has another error.
// The texts of other errors may differ each time.
func NewProblem(before, err error) bool {
	content, is := errors.AsType[*ContentError](err)
	was, wasContent := errors.AsType[*ContentError](before)
	return before == nil || is != wasContent || is && content.text != was.text
}
