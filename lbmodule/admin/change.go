package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/service"
)

const (
	// maxChange bounds the body of a change request.
	maxChange = 1 << 20

	// maxTold is the longest part of a change that errors repeat, in the answer and in the log.
	maxTold = 512

	// persistWait is how long an answer waits until a change is in storage; syncWait applies if the client asked to wait.
	persistWait = time.Second
	syncWait    = manage.StorageTimeout
)

// readBody returns the request's body, up to a maximum size.
func (c *apiCall) readBody() ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxChange))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, apiError(http.StatusRequestEntityTooLarge, "body: must be at most %d bytes", maxChange)
	}
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "body: %w", err)
	}
	return body, nil
}

// readChange parses the change in the request's body.
func (c *apiCall) readChange(v manage.Verb) (*manage.Change, error) {
	body, err := c.readBody()
	if err != nil {
		return nil, err
	}
	if v == manage.Remove && len(body) == 0 {
		body = []byte("{}")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, apiError(http.StatusBadRequest, "body: must be a JSON object: %w", err)
	}
	if fields == nil {
		return nil, apiError(http.StatusBadRequest, "body: must be a JSON object")
	}
	if err := caddyapp.Once(body); err != nil {
		return nil, apiError(http.StatusBadRequest, "%.*s", maxTold, err.Error())
	}
	change, err := manage.ParseChange(fields, v, time.Now())
	if err != nil {
		return nil, apiError(http.StatusBadRequest, "%.*s", maxTold, err.Error())
	}
	return change, nil
}

// wanted returns the entity tags in If-Match; none if any state is acceptable.
func (c *apiCall) wanted() (tags []string) {
	header := c.r.Header.Values("If-Match")
	if len(header) == 0 {
		return nil
	}
	for tag := range strings.SplitSeq(strings.Join(header, ","), ",") {
		tags = append(tags, strings.TrimSpace(tag))
	}
	if slices.Contains(tags, "*") {
		return nil
	}
	return tags
}

// unchanged checks If-Match against the current settings.
func (c *apiCall) unchanged(backends ...overlay.Running) error {
	if len(c.wanted()) == 0 {
		return nil
	}
	return c.unchangedTag(etag(backends...))
}

// unchangedTag checks If-Match against the current entity tag.
func (c *apiCall) unchangedTag(is string) error {
	wanted := c.wanted()
	if len(wanted) == 0 || slices.Contains(wanted, is) {
		return nil
	}
	return apiError(http.StatusPreconditionFailed, "If-Match %.*s: the settings have changed meanwhile; they are %s now", maxTold, strings.Join(wanted, ", "), is)
}

// asks reports whether the query has this parameter.
func (c *apiCall) asks(word string) bool {
	query := c.r.URL.Query()
	return query.Has(word) && query.Get(word) != "0" && query.Get(word) != "false"
}

// alter is a function that changes edits.
type alter = func(*manage.Edits, manage.Group) (*overlay.Overlay, error)

// changeEdits is [manage.Manager.Change] with the errors of the API.
func changeEdits(s *service.Service, how alter) (number uint64, err error) {
	number, err = s.Manager().Change(how)
	if errors.Is(err, manage.ErrEnded) {
		err = apiError(http.StatusServiceUnavailable, "%w", err)
	}
	return number, err
}

// change changes the edits. With If-Match, the tag is compared with the edits in storage, which other nodes may have changed.
func (c *apiCall) change(s *service.Service, how alter) (number uint64, err error) {
	wanted := c.wanted()
	if len(wanted) == 0 {
		return changeEdits(s, how)
	}
	number, err = s.Manager().ChangeAgreed(c.r.Context(), how)
	switch {
	case errors.Is(err, manage.ErrUnsure):
		c.w.Header().Set("Retry-After", "1")
		err = apiError(http.StatusServiceUnavailable, "If-Match %.*s: %w", maxTold, strings.Join(wanted, ", "), err)
	case errors.Is(err, manage.ErrEnded):
		err = apiError(http.StatusServiceUnavailable, "%w", err)
	}
	return number, err
}

// persisted waits until a change is in storage, and returns whether it is.
func (c *apiCall) persisted(number uint64) *bool {
	wait := persistWait
	if c.asks("sync") {
		wait = syncWait
	}
	is := c.s.Manager().Written(number, wait)
	return &is
}

func (c *apiCall) addBackend() error {
	change, err := c.readChange(manage.Add)
	if err != nil {
		return err
	}
	number, err := c.change(c.s, func(e *manage.Edits, g manage.Group) (*overlay.Overlay, error) {
		configured := g.Config()
		all := e.Running(configured, time.Now())
		if err := c.unchanged(all...); err != nil {
			return nil, err
		}
		if len(all) >= config.MaxBackends {
			return nil, apiError(http.StatusConflict, "backend %s: the pool has %d backends already", change.Address, len(all))
		}
		for _, b := range all {
			if b.Removed != nil && b.Address == change.Address {
				continue
			}
			if b.Address == change.Address {
				return nil, apiError(http.StatusConflict, "address %s: is already a backend of the pool", change.Address)
			}
			if name := change.Name; name != "" && (b.Name == name || b.Address == name) || b.Name == change.Address {
				return nil, apiError(http.StatusConflict, "name %s: is already used by backend %s", b.Name, b.Address)
			}
		}
		for _, b := range configured {
			if b.Address == change.Address && change.Mark.Until.IsZero() {
				return e.Restore(change.Address, change.Edits), nil
			}
		}
		for i := range change.Edits {
			change.Edits[i].Until = time.Time{} // the whole backend expires, not its settings
		}
		return e.Add(change.Address, change.Name, change.Edits, change.Mark), nil
	})
	if err != nil {
		return err
	}
	c.audit("backend_added", change.Address, nil, change)
	c.w.Header().Set("Location", poolsPath+"/"+url.PathEscape(c.s.Pool().Name())+"/backends/"+url.PathEscape(change.Address))
	return c.answer(http.StatusCreated, change.Address, c.persisted(number))
}

func (c *apiCall) editBackend() error {
	change, err := c.readChange(manage.Edit)
	if err != nil {
		return err
	}
	before, number, err := editBackend(c.s, c.backend, change, c.change, c.unchanged)
	if err != nil {
		return err
	}
	c.audit("backend_changed", before.Address, &before, change)
	return c.answer(http.StatusOK, before.Address, c.persisted(number))
}

// editBackend applies do to the backend with this name or address, if check accepts its current state. It returns the state before, and the
// number of the edits. Its errors are API errors.
func editBackend(
	s *service.Service, name string, change *manage.Change, do func(*service.Service, alter) (uint64, error), check func(...overlay.Running) error,
) (before overlay.Running, number uint64, err error) {
	number, err = do(s, func(e *manage.Edits, g manage.Group) (*overlay.Overlay, error) {
		var ok bool
		if before, ok = findRunning(e.Running(g.Config(), time.Now()), name); !ok {
			return nil, unknownBackend(s, name)
		}
		if err := check(before); err != nil {
			return nil, err
		}
		if before.Removed != nil {
			return nil, apiError(http.StatusConflict, "backend %s: it is being removed; add it again to keep it", name)
		}
		return e.Edit(before.Address, change.Edits, change.TakeBack), nil
	})
	return before, number, err
}

func (c *apiCall) removeBackend() error {
	change, err := c.readChange(manage.Remove)
	if err != nil {
		return err
	}
	var before overlay.Running
	number, err := c.change(c.s, func(e *manage.Edits, g manage.Group) (*overlay.Overlay, error) {
		var ok bool
		if before, ok = findRunning(e.Running(g.Config(), time.Now()), c.backend); !ok {
			return nil, unknownBackend(c.s, c.backend)
		}
		if err := c.unchanged(before); err != nil {
			return nil, err
		}
		if before.Removed != nil {
			return e.Overlay, nil // it is already being removed
		}
		return e.Remove(before.Address, change.Mark), nil
	})
	if err != nil {
		return err
	}
	if c.asks("force") {
		number = c.s.Manager().DropRemoved(before.Address)
	}
	c.audit("backend_removed", before.Address, &before, change)
	persisted := c.persisted(number)
	if _, draining := findRunning(c.running(), before.Address); draining {
		return c.answer(http.StatusAccepted, before.Address, persisted)
	}
	if !*persisted {
		return writeStatus(c.w, http.StatusOK, map[string]any{"address": before.Address, "name": before.Name, "removed": true, "persisted": false})
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (c *apiCall) resetBackend() error {
	b, ok := findRunning(c.running(), c.backend)
	if !ok {
		return unknownBackend(c.s, c.backend)
	}
	if m := c.s.Pool().Member(b.Address); m != nil {
		m.Reset(time.Now())
	}
	c.audit("backend_reset", b.Address, &b, new(manage.Change))
	return c.answer(http.StatusOK, b.Address, nil)
}

// audit logs a change. before is the backend before the change, nil if it was added.
func (c *apiCall) audit(event, address string, before *overlay.Running, change *manage.Change) {
	c.app.TellChange(event, c.s.Manager(), address, before, change, c.r.RemoteAddr, identity(c.r))
}

// identity returns the identity in the client's certificate; "" without one.
func identity(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.String()
}
