package ratelimit

import "net/netip"

// Express returns why requests cannot be admitted by their client's address alone, or "" if they can.
func (h *Handler) Express() string {
	if h.identifier.template != "" {
		return "ip_rate_limit_key"
	}
	return ""
}

// Admission records the limits that have admitted a request. It may be reused for other requests. The zero Admission has passed none.
type Admission struct{ passes []pass }

// Admit decides about a request of a client at that address, as [Handler.ServeHTTP] does; the address is the zero Addr if the client has
// none. The grants are kept in a until [Admission.Release]. If the request is refused, it is charged to no limit, including those that had
// admitted it before.
func (h *Handler) Admit(address netip.Addr, a *Admission) *Refusal {
	c := client{address: address.Unmap().WithZone("")}
	h.identifier.addKeys(&c)
	a.passes = append(a.passes, pass{})
	n := len(a.passes) - 1
	outcome, d := h.decide(&c, &a.passes[n])
	if outcome != allowed {
		a.passes = a.passes[:n]
	}
	if outcome != refused {
		return nil
	}
	for i := range a.passes {
		a.passes[i].refund()
	}
	a.clear()
	return h.refusal(d)
}

// Release must be called when the request has ended.
func (a *Admission) Release() {
	for i := range a.passes {
		a.passes[i].grant.Release()
	}
	a.clear()
}

func (a *Admission) clear() {
	clear(a.passes)
	a.passes = a.passes[:0]
}
