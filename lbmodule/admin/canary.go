package admin

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/canary"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/status"
)

// canaryChange is the JSON of a change to a canary.
type canaryChange struct {
	Action string   `json:"action"`
	Share  *float64 `json:"share"`
	Owner  string   `json:"owner"`
	Reason string   `json:"reason"`

	action canary.Action
	share  float64
}

func (c *apiCall) errNoCanary() error {
	return apiError(http.StatusNotFound, "pool %s: has no canary", c.s.Pool().Name())
}

// showCanary writes the state of the canary.
func (c *apiCall) showCanary() error {
	shown := status.NewCanary(c.s)
	if shown == nil {
		return c.errNoCanary()
	}
	c.w.Header().Set("ETag", `"`+shown.Revision+`"`)
	return caddyapp.WriteJSON(c.w, shown)
}

// readCanaryChange parses the change in the request's body.
func (c *apiCall) readCanaryChange() (*canaryChange, error) {
	body, err := c.readBody()
	if err != nil {
		return nil, err
	}
	if err := caddyapp.Once(body); err != nil {
		return nil, apiError(http.StatusBadRequest, "%.*s", maxTold, err.Error())
	}
	change := new(canaryChange)
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(change); err != nil {
		return nil, apiError(http.StatusBadRequest, "body: must be a JSON object with action, share, owner and reason: %.*s", maxTold, err.Error())
	}
	var words []string
	found := false
	for a := range canary.Actions {
		if words = append(words, a.String()); a.String() == change.Action {
			change.action, found = a, true
		}
	}
	if !found {
		return nil, apiError(http.StatusBadRequest, "action %.*q: must be one of %s", maxTold, change.Action, strings.Join(words, ", "))
	}
	switch {
	case change.action == canary.SetShare && change.Share == nil:
		return nil, apiError(http.StatusBadRequest, "share: missing; it must be from 0 to 1")
	case change.action != canary.SetShare && change.Share != nil:
		return nil, apiError(http.StatusBadRequest, "share: is for the action share only")
	case change.Share != nil:
		change.share = *change.Share
		if change.share != 0 {
			if err := config.InRange("canary.share", change.share); err != nil {
				return nil, apiError(http.StatusBadRequest, "share %v: must be 0, or from 0.0001 to 1", change.share)
			}
		}
	}
	for _, remark := range []struct{ word, text string }{{"owner", change.Owner}, {"reason", change.Reason}} {
		if len(remark.text) > manage.MaxRemark || strings.ContainsFunc(remark.text, unicode.IsControl) {
			return nil, apiError(http.StatusBadRequest, "%s: must be at most %d bytes without control characters", remark.word, manage.MaxRemark)
		}
	}
	return change, nil
}

// changeCanary applies an operator's change to the canary.
func (c *apiCall) changeCanary() error {
	change, err := c.readCanaryChange()
	if err != nil {
		return err
	}
	run, _ := c.s.Canary()
	if run == nil {
		return c.errNoCanary()
	}
	revision := ""
	if len(c.r.Header.Values("If-Match")) > 0 {
		revision = run.Revision()
		if err := c.unchangedTag(`"` + revision + `"`); err != nil {
			return err
		}
	}
	moved, err := run.Do(change.action, change.share, revision, time.Now())
	if err != nil {
		return apiError(http.StatusPreconditionFailed, "If-Match: %w", err)
	}
	c.app.TellCanaryChange(c.s.Pool().Name(), change.action, moved.Share, change.Owner, change.Reason, c.r.RemoteAddr, identity(c.r))
	c.s.TellCanary(moved)
	c.s.KeepCanary()
	return c.showCanary()
}
