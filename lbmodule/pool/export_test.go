package pool

// Acquire is AcquireFor for a request without a key.
func (v *View) Acquire(tried []int, safe bool) (Lease, error) {
	return v.AcquireFor(Key{}, tried, safe)
}
