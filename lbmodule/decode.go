package lbmodule

import "github.com/ballastlb/ballast/lbmodule/config"

// UnmarshalJSON reads the handler's config.
func (h *Handler) UnmarshalJSON(text []byte) error {
	type handler Handler // which has no such method
	return config.Ranges.Decode("", text, (*handler)(h))
}

// UnmarshalJSON reads the breaker's config.
func (c *CircuitBreaker) UnmarshalJSON(text []byte) error {
	return config.Ranges.Decode("breaker", text, &c.Breaker)
}

// UnmarshalJSON reads the policy's config.
func (h *Hash) UnmarshalJSON(text []byte) error {
	type hash Hash
	return config.Ranges.Decode("lb_policy hash", text, (*hash)(h))
}

// UnmarshalJSON reads the policy's config.
func (s *Sticky) UnmarshalJSON(text []byte) error {
	type sticky Sticky
	return config.Ranges.Decode("lb_policy sticky", text, (*sticky)(s))
}

// UnmarshalJSON reads the policy's config.
func (p *P2C) UnmarshalJSON(text []byte) error {
	if err := config.Ranges.Decode("lb_policy p2c", text, &p.RandomChoiceSelection); err != nil {
		return err
	}
	return config.Ranges.Check("lb_policy p2c", &p.RandomChoiceSelection)
}

// UnmarshalJSON reads the policy's config.
func (p *WeightedRoundRobin) UnmarshalJSON(text []byte) error {
	type weighted WeightedRoundRobin
	return config.Ranges.Decode("lb_policy weighted_round_robin", text, (*weighted)(p))
}
