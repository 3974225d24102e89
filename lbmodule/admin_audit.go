package lbmodule

import (
	"net/http"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
)

// audit tells who has changed what. before is the backend as it was, nil if there was none.
func (c *apiCall) audit(event, address string, before *overlay.Running, change *manage.Change) {
	c.app.TellChange(event, c.s.Manager(), address, before, change, c.r.RemoteAddr, identity(c.r))
}

// identity is who a client certificate says that the client is; "" without one.
func identity(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.String()
}
